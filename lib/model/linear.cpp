// model/linear
