// index/layout
