# Every law holds on every index of the fixture.
for index in short flat; do
  squeeze-inspect "$FIXTURE/$index.sqz.h5" --verify || exit 1
  squeeze-inspect "$FIXTURE/$index.sqz.h5" --queries "$FIXTURE/short.kv.h5" --verify || exit 1
done
