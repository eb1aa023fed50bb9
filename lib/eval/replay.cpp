// eval/replay
