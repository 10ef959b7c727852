"""The model, its variants, and weights in and out.

layers         building blocks
variants       one module each
weights        weights of any origin into a model
published      published weights by name, from the hub
canonical      metric depth in one camera for all, and back to metres
loading        models as a run's configuration or checkpoint describes them
tensor_files   files of tensors
file_kinds     what a file of weights is that is not one, or of another model
flops          operations of a frame
"""
