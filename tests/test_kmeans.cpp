// Tests of kmeans.
