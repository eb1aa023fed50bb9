// model/rope
