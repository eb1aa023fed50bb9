// model/config
