// squeeze-build
int main() { return 2; }
