// index/kmeans
