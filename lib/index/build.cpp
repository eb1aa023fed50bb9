// index/build
