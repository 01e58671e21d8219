"""The settings of a fit: everything besides the data that decides what weights come out of it."""

from dataclasses import dataclass
from enum import StrEnum


class Optimizer(StrEnum):
    """How weights follow gradients."""

    SGD = "sgd"  # with momentum
    ADAM = "adam"
    ADAMW = "adamw"  # with weight decay, of kernels alone


class Monitor(StrEnum):
    """The figure of the validation part by which the best epoch is chosen, and by which early stopping waits."""

    ACCURACY = "val_accuracy"
    LOSS = "val_loss"
    LAST = "last"  # the last epoch, whatever validation says: then the validation part has chosen nothing yet


class Schedule(StrEnum):
    """How the learning rate changes over the steps of a fit."""

    CONSTANT = "constant"
    COSINE = "cosine"  # up over the first steps, then down to 0 in half a cosine


class Augment(StrEnum):
    """What is done to training scans on their way into a batch; see `trainer.fit.augmentation`."""

    NONE = "none"
    ARTICLE = "article"
    MODERN = "modern"
    STRONG = "strong"  # the same, further
    CROP = "crop"  # random resized crop, mirrored or not, and mild gray levels


class MixedPrecision(StrEnum):
    """What layers compute in; weights, losses and the checkpoint are float32 in any case."""

    FLOAT32 = "float32"
    FLOAT16 = "mixed_float16"
    BFLOAT16 = "mixed_bfloat16"


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Hyperparameters; each architecture carries those that its article published.

    Attributes:
        epochs: passes over the training part, or blocks of `steps_per_epoch`.
        batch_size: scans in one step.
        seed: of the first weights, of the order of the batches and of augmentation.
        split_seed: of the split; trainings that share it are judged on the same hold-out.
        optimizer: `momentum` is used by `sgd` alone.
        learning_rate: constant, or the highest of a schedule.
        schedule: how it changes.
        momentum: of stochastic gradient descent.
        weight_decay: of `adamw`, as a share of the learning rate; biases and norms have none.
        steps_per_epoch: how many batches make an epoch; 0: one pass over the training part.
        monitor: what makes an epoch the best.
        patience: how many epochs without a better one are waited for before the fit ends; 0: never ends early.
        augment: what is done to training scans.
        balanced: whether batches are drawn with as many scans of each label, however many it has.
        mixup: of every batch, how strongly each scan is mixed with another (the alpha of Zhang et al. 2018,
            arXiv:1710.09412); 0: not at all.
        label_smoothing: how much of each target is spread over all classes.
        class_weights: whether each label weighs the same in the loss, however many scans it has.
        average: decay of the moving average of all weights, by step, which is the network that is kept; 0: the last
            weights are kept.
        precision: what layers compute in.
        calibrate: whether scores are made probabilities on the validation part; one label alone.
        teachers: digests of the networks whose opinion is learnt; "": the labels are.
        backbone_weights: `none`, `imagenet`, or a file of weights for the part of a network that has pretrained ones.
    """

    epochs: int = 50
    batch_size: int = 100
    seed: int = 2018
    split_seed: int = 2018
    optimizer: Optimizer = Optimizer.SGD
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = Schedule.CONSTANT
    steps_per_epoch: int = 0
    monitor: Monitor = Monitor.ACCURACY
    patience: int = 0
    augment: Augment = Augment.NONE
    balanced: bool = False
    mixup: float = 0.0
    label_smoothing: float = 0.0
    class_weights: bool = False
    average: float = 0.0
    precision: MixedPrecision = MixedPrecision.FLOAT32
    calibrate: bool = False
    teachers: str = ""
    backbone_weights: str = "none"
