// squeeze-run
int main() { return 2; }
