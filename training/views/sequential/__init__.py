"""The sequential view: a transformer over a user's last events whose input and output are the items' own vectors.

batches.py     interactions as padded arrays of one cost a batch
net.py         the network in PyTorch
loop.py        epochs, early stopping, checkpoints
mean.py        the running mean of the weights, which is what is kept
team.py        what is done otherwise where several train one network together
graph.py       the trained weights as an ONNX graph, without PyTorch
fit.py         puts them together; the only module others need
"""
