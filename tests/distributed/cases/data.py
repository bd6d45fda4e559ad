"""Data of all kinds."""

import gc
import time

import pandas as pd
import torch
from tests.distributed.cases.registry import case
from tests.distributed.parts import (
    OwnLoader,
    Rows,
    Scaled,
    Stream,
    Two,
    Uneven,
    Unknown,
    classes,
    drawn,
    endless,
    face,
    features,
    fitted,
    loader,
    mlp,
    ready,
)
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler, dataloader

from torchkeras.distributed import sharded_data

KINDS = {
    "a Dataset": lambda x, y: (Rows(x, y), {"batch_size": 4}),
    "a loader": lambda x, y: (loader(x, y), {}),
    "a loader of samples": lambda x, y: (DataLoader(Rows(x, y), 4, shuffle=True), {}),
    "arrays": lambda x, y: ((x.numpy(), y.numpy()), {"batch_size": 4}),
    "frames": lambda x, y: ((pd.DataFrame(x.numpy()), pd.Series(y.numpy())), {"batch_size": 4}),
    "arrays in order": lambda x, y: ((x, y), {"batch_size": 4, "shuffle": False}),
    "a worker": lambda x, y: (DataLoader(Rows(x, y), 4, shuffle=True, num_workers=1), {}),
    "tensors in batches of uneven sizes": lambda x, y: (
        DataLoader(TensorDataset(x, y), batch_sampler=Uneven(len(x))), {}),
    "a subset of tensors": lambda x, y: (DataLoader(Subset(TensorDataset(x, y), range(1, 12)), 4, shuffle=True), {}),
    "batches of uneven sizes": lambda x, y: (DataLoader(Rows(x, y), batch_sampler=Uneven(len(x))), {}),
    "a weighted sampler": lambda x, y: (
        DataLoader(Rows(x, y), 4, sampler=WeightedRandomSampler((y + 1.0).tolist(), 13)), {}),
    "a loader with a generator": lambda x, y: (loader(x, y, generator=drawn(3)), {}),
    "no short batch": lambda x, y: (loader(x, y, drop_last=True), {}),
    "a subset": lambda x, y: (Subset(Rows(x, y), range(1, 12)), {"batch_size": 4}),
    "a stream": lambda x, y: (Stream(list(zip(x, y, strict=True))), {"batch_size": 4, "shuffle": False}),
    "a loader of a stream": lambda x, y: (DataLoader(Stream(list(zip(x, y, strict=True))), 4), {}),
    "a stream with a worker": lambda x, y: (DataLoader(Stream(list(zip(x, y, strict=True))), 4, num_workers=1), {}),
    "a stream of ready batches": lambda x, y: (DataLoader(Stream(ready(x, y)), batch_size=None), {}),
    "a Dataset of ready batches": lambda x, y: (DataLoader(ready(x, y), batch_size=None), {}),
    "a list of batches": lambda x, y: (ready(x, y), {}),
    "a loader with a pass of its own": lambda x, y: (OwnLoader(Rows(x, y), 4), {}),
}


@case(*KINDS, worlds=(2, 3))
def data(kind, seed):
    (train, options), (val, _) = (KINDS[kind](features(17, seed), classes(17, seed)) for _ in range(2))
    model = face(mlp(seed), "cross_entropy", {"accuracy": "accuracy", "seen": Unknown()})
    return fitted(model, train, val, epochs=2, **options)


@case()
def data_from_workers_that_stay(seed):
    rows = Rows(features(17, seed), classes(17, seed))
    train, val = (DataLoader(rows, 4, shuffle=True, num_workers=1, persistent_workers=True) for _ in range(2))
    result = fitted(face(mlp(seed), "cross_entropy"), train, val, epochs=2)
    usual, dataloader._utils.MP_STATUS_CHECK_INTERVAL = dataloader._utils.MP_STATUS_CHECK_INTERVAL, 20.0
    try:
        began = time.perf_counter()
        del train, val
        gc.collect()
        took = time.perf_counter() - began
    finally:
        dataloader._utils.MP_STATUS_CHECK_INTERVAL = usual
    return result | {"gone_at_once": took < 16}  # torch waits for a worker that does not end by itself


@case()
def numbers_sent_in_blocks(seed):
    x, y, at_once = features(17, seed), classes(17, seed), sharded_data.AT_ONCE
    sharded_data.AT_ONCE = 2
    try:
        model = face(mlp(seed), "cross_entropy", ["accuracy"])
        rows = Rows(x, y)
        result = fitted(model, loader(x, y, size=2), DataLoader(rows, 3, num_workers=1), gradient_accumulation_steps=3)
        return result | {"predicted": model.predict(DataLoader(rows, 2, shuffle=True))}
    finally:
        sharded_data.AT_ONCE = at_once


@case()
def a_generator(seed):
    batches = ready(features(17, seed), classes(17, seed))
    return fitted(face(mlp(seed), "cross_entropy", ["accuracy"]), endless(batches), endless(batches), epochs=3,
                  steps_per_epoch=3, validation_steps=2)


@case()
def a_generator_that_ends_too_early(seed):
    batches = ready(features(17, seed), classes(17, seed))
    return fitted(face(mlp(seed), "cross_entropy"), iter(batches), epochs=3, steps_per_epoch=3)


INPUTS = {
    "two arrays": lambda x, y: (((x[:, :4], x[:, 4:]), y), {"batch_size": 5}),
    "two arrays in ready batches": lambda x, y: ([((a[:, :4], a[:, 4:]), b) for a, b in ready(x, y)], {}),
    "a dict of arrays": lambda x, y: ({"left": x[:, :4], "right": x[:, 4:], "labels": y}, {"batch_size": 5}),
    "ready dicts": lambda x, y: ([{"left": a[:, :4], "right": a[:, 4:], "labels": b} for a, b in ready(x, y)], {}),
    "a loader of dicts": lambda x, y: (DataLoader(
        [{"left": a[:4], "right": a[4:], "labels": b} for a, b in zip(x, y, strict=True)], 4, shuffle=True), {}),
}


@case(*INPUTS, worlds=(2,))
def inputs(kind, seed):
    train, options = INPUTS[kind](features(17, seed), classes(17, seed))
    return fitted(face(Two(seed), "cross_entropy", ["accuracy"]), train, train, **options)


@case()
def a_number_in_ready_batches(seed):
    batches = [{"x": a, "scale": torch.tensor(0.7), "labels": b}
               for a, b in ready(features(17, seed), classes(17, seed))]
    return fitted(face(Scaled(seed), "cross_entropy"), batches, batches)


@case()
def a_part_held_out(seed):
    return fitted(face(mlp(seed), "cross_entropy"), (features(17, seed), classes(17, seed)), validation_split=0.3,
                  batch_size=4)
