# One changed byte in the keys, and --verify says where.
cp "$FIXTURE/short.sqz.h5" damaged.sqz.h5
offset=$(( $(stat -c %s damaged.sqz.h5) / 2 ))
printf '\x41\x42\x41\x42\x41\x42\x41\x42' | dd of=damaged.sqz.h5 bs=1 seek=$offset conv=notrunc status=none
squeeze-inspect damaged.sqz.h5 --queries "$FIXTURE/short.kv.h5" --verify > report.txt
echo "-> $?"
grep -c FAIL report.txt
