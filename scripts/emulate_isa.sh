#!/usr/bin/env bash
# Runs the kernel suites under an instruction set that this machine lacks: builds them with the kernels alone into one
# static binary, and boots Debian's kernel with that binary in Bochs, an emulator that has AVX-512 F, BW, DQ and VL.
set -euo pipefail

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'HELP'
usage: scripts/emulate_isa.sh [ISA [CPU [TEST_OPTION...]]]
Runs the kernel suites with SQUEEZE_ISA=ISA (default avx512) on an emulated CPU and exits with their status. CPU is a
model of Bochs (`bochs --help cpu`); the default, corei7_skylake_x, boots, corei7_icelake_u and tigerlake do not. The test
options are doctest's. Takes some minutes. Bochs has no AMX: with ISA amx the test binary itself carries the
instructions on tiles out.
Needs g++, doctest and the Debian packages bochs, bochs-term, bochsbios, vgabios and libmagic1. Kernel, busybox and boot
loader are downloaded with apt-get, once, into ${XDG_CACHE_HOME:-~/.cache}/squeeze/emulate_isa; nothing is installed.
The emulator rounds ties wrongly when it converts float32 to f16 (AVX2's instruction too): that test case is left out.
HELP
  exit 0
fi

isa=${1:-avx512}
cpu=${2:-corei7_skylake_x}
shift $(($# < 2 ? $# : 2))
fail() { echo "emulate_isa.sh: $1" >&2; exit 1; }
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/squeeze/emulate_isa
packages=$cache/packages
work=$(mktemp -d)
bochs=
clean_up() {
  [ -z "$bochs" ] || kill -9 "$bochs" 2>/dev/null || true  # it does not end on other signals
  rm -rf "$work"
}
trap clean_up EXIT

for program in bochs-bin apt-get dpkg-deb g++; do
  command -v $program >/dev/null || fail "$program is missing; on Debian: apt-get install bochs bochs-term bochsbios vgabios g++"
done
models=$(bochs-bin --help cpu 2>&1 || true)
grep -qx -- "$cpu" <<<"$models" || fail "bochs knows no CPU '$cpu'; see bochs --help cpu"

# Kernel, shell, boot loader and the maker of the boot image, unpacked into the cache.
download() {
  local kernel staging=$packages.partial
  kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
  [ -n "$kernel" ] || fail "apt-cache knows no linux-image-cloud-amd64; run apt-get update"
  rm -rf "$staging"
  mkdir -p "$staging"
  (cd "$staging" && apt-get download "$kernel" busybox-static isolinux syslinux-common genisoimage) >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail "could not download the packages; run apt-get update"; }
  for package in "$staging"/*.deb; do dpkg-deb -x "$package" "$staging"; done
  mv "$staging" "$packages"
}
[ -d "$packages" ] || download

# The flags of kernels/CMakeLists.txt. Signals are left to tests/emulated_amx.cpp.
build() {
  local source flags pids=() only="-ffp-contract=off -fno-exceptions" amx=kernels/cpu/amx_permission
  local tests=(main test_kernels test_sketch_kernels test_attend test_assign)
  [ "$isa" != amx ] || amx=tests/emulated_amx
  for source in kernels/dispatch kernels/cpu/{scalar,avx2,avx512,amx} "$amx" "${tests[@]/#/tests/}"; do
    flags=-DDOCTEST_CONFIG_NO_POSIX_SIGNALS
    [[ $source != */avx2 ]] || flags="-mavx2 -mfma -mf16c $only"
    [[ $source != kernels/cpu/avx512 && $source != kernels/cpu/amx ]] ||
      flags="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512 $only"
    ${CMAKE_CXX_COMPILER_LAUNCHER:-} g++ -std=c++20 -O3 -DNDEBUG -w -I. $flags -c "$source.cpp" -o "$work/${source##*/}.o" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
  g++ -static -s "$work"/*.o -o "$work/root/kernel_tests"
}

# A boot image: the kernel and a file system in memory whose init runs the tests.
pack() {
  local boot=$work/iso/isolinux
  cp "$packages/bin/busybox" "$work/root/"
  cat >"$work/root/init" <<INIT
#!/busybox sh
export SQUEEZE_ISA=$isa
/kernel_tests --no-colors=true --test-case-exclude='from_f32 to f16*' $(printf '%q ' "$@")
echo "exit status: \$?"
/busybox sleep 1  # for the serial port
/busybox poweroff -f
INIT
  chmod +x "$work/root/init"
  (cd "$work/root" && printf '%s\n' dev init busybox kernel_tests | ./busybox cpio -o -H newc) >"$work/iso/initrd" 2>/dev/null
  cp "$packages"/boot/vmlinuz-* "$work/iso/vmlinuz"
  cp "$packages"/usr/lib/ISOLINUX/isolinux.bin "$packages"/usr/lib/syslinux/modules/bios/ldlinux.c32 "$boot/"
  # Without these two options Linux finds the sizes of the emulated register state inconsistent, and disables AVX.
  cat >"$boot/isolinux.cfg" <<'BOOT'
default tests
label tests
  kernel /vmlinuz
  append initrd=/initrd console=ttyS0 quiet loglevel=2 nopku clearcpuid=xsaves,xsavec mitigations=off tsc=reliable
BOOT
  "$packages/usr/bin/genisoimage" -quiet -o "$work/boot.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
    -no-emul-boot -boot-load-size 4 -boot-info-table "$work/iso"
}

emulate() {
  cat >"$work/bochsrc" <<BOCHS
display_library: term
config_interface: textconfig
cpu: model=$cpu, count=1, ips=50000000, reset_on_triple_fault=0
megs: 512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
log: $work/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
BOCHS
  echo continue >"$work/commands"  # Debian's Bochs starts in its debugger
  TERM=xterm bochs-bin -q -f "$work/bochsrc" -rc "$work/commands" </dev/null >"$work/screen" 2>&1 &
  bochs=$!
  for ((seconds = 0; seconds < 1800; ++seconds)); do
    kill -0 "$bochs" 2>/dev/null || break
    sleep 1
  done
}

mkdir -p "$work/root/dev" "$work/iso/isolinux"
echo "emulate_isa.sh: building" >&2
build
pack "$@"
echo "emulate_isa.sh: SQUEEZE_ISA=$isa on an emulated $cpu" >&2
emulate
touch "$work/serial"
tr -d '\r' <"$work/serial" | sed '/^exit status: /d; /^\[ *[0-9.]*\] /d'
status=$(tr -d '\r' <"$work/serial" | sed -n 's/^exit status: //p')
[ -n "$status" ] || fail "the emulated machine ended without a result; its last words: $(tail -n 3 "$work/bochs.log")"
exit "$status"
