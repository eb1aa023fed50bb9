// index/calibration
