// model/transformer
