"""The shortest loop by hand for each strategy, without stratbench's: what `make overhead` compares with.

``handwritten.py STRATEGY MODEL BATCH STEPS INDEX REPLICAS [ADDRESS …]`` prints each step's seconds as JSON. Model and
data are stratbench's.
"""

import json
import os
import sys
import time

strategy, model_name, batch, steps, index, replicas, *addresses = sys.argv[1:]
batch, steps, index, replicas = int(batch), int(steps), int(index), int(replicas)
if strategy == "horovod":
    index = int(os.environ["HOROVOD_RANK"])
cores = range(replicas) if strategy == "mirrored" or index < 0 else [index]
os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[core] for core in cores])

import h5py  # noqa: E402
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from stratbench.datasets import mnist_12k  # noqa: E402
from stratbench.datasets.base import Array, Info  # noqa: E402
from stratbench.harness.plan import models  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(len(cores))
tf.config.threading.set_inter_op_parallelism_threads(len(cores))
with h5py.File(mnist_12k._FILE) as file:
    images, labels = file["x"][:], file["y"][:].astype("int32")
share = batch if strategy == "mirrored" else batch // replicas


def timed(step):
    seconds = []
    before = time.perf_counter()
    for number in range(steps):
        start = number * share % (9000 - share)
        float(step(images[start : start + share], labels[start : start + share]))
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return seconds


def make():
    keras.utils.set_random_seed(1)
    model = models.own(model_name).build(Info(None, None, 9000, Array((28, 28, 1), "uint8"), classes=10))
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer.build(model.trainable_variables)
    return model, optimizer, half_squared_error if model_name == "mlp" else cross_entropy


def half_squared_error(y, predictions):
    return 0.5 * tf.reduce_mean(tf.reduce_sum(tf.square(predictions - tf.one_hot(y, 10)), axis=-1))


def cross_entropy(y, predictions):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=predictions))


def gradients(model, loss, x, y, scale=1.0):
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        value = loss(y, model(tf.cast(x, tf.float32) / 255.0, training=True)) * scale
    return value / scale, tape.gradient(value, variables)


def single():
    model, optimizer, loss = make()

    @tf.function(autograph=False)
    def step(x, y):
        value, grads = gradients(model, loss, x, y)
        optimizer.apply(grads, model.trainable_variables)
        return value

    return timed(step)


def distributed(scope):
    with scope.scope():
        model, optimizer, loss = make()
    part = batch // replicas

    @tf.function(autograph=False)
    def step(x, y):
        def replica(x, y):
            if strategy == "mirrored":
                first = tf.distribute.get_replica_context().replica_id_in_sync_group * part
                x, y = x[first : first + part], y[first : first + part]
            value, grads = gradients(model, loss, x, y, 1 / replicas)
            optimizer.apply(grads, model.trainable_variables)
            return value

        return scope.experimental_local_results(scope.run(replica, (x, y)))[0]

    return timed(step)


def mirrored():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return distributed(tf.distribute.MirroredStrategy([f"/cpu:{i}" for i in range(replicas)]))


def multiworker():
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    return distributed(tf.distribute.MultiWorkerMirroredStrategy())


def horovod():
    import horovod.tensorflow as hvd

    hvd.init()
    model, optimizer, loss = make()
    for variable in model.variables:
        variable.assign(hvd.broadcast(variable.value, root_rank=0))

    @tf.function(autograph=False)
    def step(x, y):
        value, grads = gradients(model, loss, x, y)
        optimizer.apply(hvd.grouped_allreduce(grads), model.trainable_variables)
        return value

    return timed(step)


def ps():
    v1 = tf.compat.v1
    cluster = tf.train.ClusterSpec({"ps": addresses[:1], "worker": addresses[1:]})
    threads = {"intra_op_parallelism_threads": len(cores), "inter_op_parallelism_threads": len(cores)}
    if index < 0:
        tf.distribute.Server(cluster, "ps", 0, config=v1.ConfigProto(**threads)).join()
    filters = ["/job:ps", f"/job:worker/task:{index}"]
    config = v1.ConfigProto(**threads, device_filters=filters)
    server = tf.distribute.Server(cluster, "worker", index, config=config)
    model, _, loss = make()
    initial = model.get_weights()
    with (
        tf.Graph().as_default(),
        v1.device(v1.train.replica_device_setter(cluster=cluster, worker_device=f"/job:worker/task:{index}")),
    ):
        pairs = [
            (
                v1.get_variable(f"w{i}", initializer=w, use_resource=True),
                v1.get_variable(f"m{i}", w.shape, use_resource=True, initializer=v1.zeros_initializer()),
            )
            for i, w in enumerate(initial)
        ]
        x = v1.placeholder(tf.uint8, (None, 28, 28, 1))
        y = v1.placeholder(tf.int32, (None,))
        values = [w.read_value() for w, _ in pairs]
        predictions, _ = model.stateless_call(values, [], tf.cast(x, tf.float32) / 255.0, training=True)
        value = loss(y, predictions)
        applied = [
            tf.raw_ops.ResourceApplyKerasMomentum(var=w.handle, accum=m.handle, lr=0.05, grad=g, momentum=0.9)
            for (w, m), g in zip(pairs, tf.gradients(value, values), strict=True)
        ]
        manager = v1.train.SessionManager(ready_op=v1.report_uninitialized_variables(), recovery_wait_secs=0.05)
        if index == 0:
            session = manager.prepare_session(server.target, init_op=v1.global_variables_initializer(), config=config)
        else:
            session = manager.wait_for_session(server.target, config=config)
        run = session.make_callable([value, tf.group(*applied)], [x, y])
        return timed(lambda x, y: run(x, y)[0])


print("SECONDS", json.dumps(globals()[strategy]()), flush=True)
os._exit(0)
