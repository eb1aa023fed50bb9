// squeeze-dump
int main() { return 2; }
