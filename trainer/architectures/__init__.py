"""The networks that can be trained, one file for each. All but `torch_weights` need the extra `train`.

catalog: the networks by name.
architecture: what a network is before training.
cnn75: the small network of the pediatric article.
inceptionresnetv2: its large network.
lenet: the small network of the twelve-class article.
inception: its large network.
efficientnetlite0: the network that ships.
torch_weights: reads PyTorch's files of weights.
"""
