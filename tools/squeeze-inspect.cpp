// squeeze-inspect
int main() { return 2; }
