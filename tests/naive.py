"""The oracle: a slow, obvious NumPy interpreter of programs, a method per instruction (docs/program.md says them all).

It knows nothing of the kernels. Floats are float64 by choice, which does the kernels' float32 mathematics more
precisely; random numbers, initial weights and the fixed-point state are exact. What float32 cannot hold counts as
not finite, so that both find the same statuses. Tensors are stored without halo; a convolution pads by itself.
"""

import numpy as np

from edgerev.kernels import layout
from edgerev.kernels.layout import (
    Activation,
    ConsolidationKind,
    DType,
    LossKind,
    NormKind,
    SolveKind,
    Status,
    UpdateKind,
)

INTEGERS = {DType.I32: np.int32, DType.I16: np.int16, DType.I64: np.int64}


class Stopped(Exception):  # noqa: N818
    """A CHECK found a recorded status."""

    def __init__(self, status, row, sample):
        super().__init__(f"{status.name} in row {row}, sample {sample}")
        self.status, self.row, self.sample = status, row, sample


class Memory:
    """An array for each tensor, by number or name: `(capacity, H, W, C)`, or `(H, W, C)` for capacity 0."""

    def __init__(self, program, dtype=np.float64):
        self.program, self.dtype, self.arrays = program, dtype, {}

    def __getitem__(self, key):
        number = self.program.find(key) if isinstance(key, str) else key
        if number not in self.arrays:
            tensor = self.program.decode_tensor(number)
            shape = (tensor.capacity, *tensor.shape) if tensor.capacity else tensor.shape
            wide = np.float64 if tensor.dtype == DType.F64 else self.dtype
            self.arrays[number] = np.zeros(shape, INTEGERS.get(tensor.dtype, wide))
        return self.arrays[number]


def run(program, memory, section, n, *, rounding=True):
    """Run `section` for `n` samples; with `rounding` off, the fixed-point state is kept as floats in `memory`.

    A memory is used with rounding either on or off, not both. A status is forgotten at the end of the run.
    """
    if not 0 < n <= program.batch:
        raise ValueError(f"{n} samples; the program was lowered for 1 to {program.batch}")
    statuses = []
    with np.errstate(all="ignore"):
        for row, offset in unrolled(program, range(*program.sections[section]), n, memory):
            if program.rows[row * layout.ROW + layout.OP] not in layout.SIGNATURES:
                statuses.append((row, -1, Status.UNKNOWN_OP))
                continue
            call = Call(program.decode(row), row, memory, n, rounding, statuses, offset)
            if call.count > 0:
                getattr(call, call.step.op.name.lower())()


def unrolled(program, rows, n, memory):
    """Yield every row that is run, with the samples by which a REPEAT has moved on."""
    rows = list(rows)
    while rows:
        row = rows.pop(0)
        op = program.rows[row * layout.ROW + layout.OP]
        if op not in (layout.Op.REPEAT, layout.Op.SKIP):
            yield row, 0
            continue
        step = program.decode(row)
        if op == layout.Op.SKIP:
            counters = memory[step.operands["counters"]].reshape(-1)
            skipped = counters[step.parameters["slot"]] > step.parameters["most"]
            rows = rows[step.parameters["rows"] * skipped :]
            continue
        body, rows = rows[: step.parameters["rows"]], rows[step.parameters["rows"] :]
        for offset in range(0, min(n - step.first, step.count), step.parameters["size"]):
            yield from ((row, offset) for row in body)


class Call:
    """One instruction on the samples of one run: what it needs, then a method for each operation."""

    def __init__(self, step, row, memory, n, rounding, statuses, offset=0):
        self.step, self.row, self.memory, self.n = step, row, memory, n
        self.rounding, self.statuses = rounding, statuses
        self.first = step.first + offset
        self.count = min(n - self.first, step.count)

    def __getitem__(self, parameter):
        return self.step.parameters[parameter]

    def has(self, name):
        return self.step.operands.get(name, layout.NO_TENSOR) != layout.NO_TENSOR

    def tensor(self, name):
        return self.memory.program.decode_tensor(self.step.operands[name])

    def whole(self, name):
        return self.memory[self.step.operands[name]]

    def flat(self, name):
        return self.whole(name).reshape(-1)

    def samples(self, name):
        """Index the samples of this instruction in a tensor: all of it if it does not depend on the batch."""
        capacity = self.tensor(name).capacity
        if capacity and self.count > capacity:
            raise ValueError(f"row {self.row}: {name} holds {capacity} samples, {self.count} are asked for")
        return (self.first + np.arange(self.count)) % capacity if capacity else ...

    def read(self, name):
        return self.whole(name)[self.samples(name)]

    def rows(self, name):
        return self.read(name).reshape(self.count, -1)

    def real(self, name):
        """Read a state as real numbers."""
        values = self.read(name)
        return values if values.dtype.kind == "f" else values * self.grid_step(name)

    def grid_step(self, name):
        return 2.0 ** -layout.FRACTION_BITS[self.tensor(name).dtype]

    def write(self, name, values):
        array, values, index = self.whole(name), np.asarray(values), self.samples(name)
        if array.dtype.kind == "i" and values.dtype.kind == "f":
            if self.rounding:
                raise TypeError(f"row {self.row}: floats written to integer tensor {name}")
            array = (array * self.grid_step(name)).astype(self.memory.dtype)
            self.memory.arrays[self.step.operands[name]] = array
        array[index] = values.reshape(array[index].shape)

    def sum_into(self, name, value):
        """Write the gradient of a parameter, or add it to the sum so far."""
        if self.has(name):
            total = self.flat(name)
            total[...] = np.reshape(value, -1) + (total if self.first > 0 else 0)

    def record(self, status, index=None):
        self.statuses.append((self.row, -1 if index is None else self.first + index, status))

    def check(self):
        if self.statuses:
            row, sample, status = min(self.statuses)
            raise Stopped(status, row, sample)

    def input(self):
        y = np.empty((self.count, *self.tensor("y").shape))
        for s, raw in enumerate(self.read("raw")):
            (height, width, _), noise = y[s].shape, 0
            top, left = (raw.shape[0] - height) // 2, (raw.shape[1] - width) // 2
            if self["augment"]:
                raw, top, left, noise = self.augmented(raw, self.first + s, y[s].shape)
            y[s] = (raw[top : top + height, left : left + width] - self.whole("mean")) * self.whole("scale") + noise
            if not finite(y[s]):
                self.record(Status.INPUT_NOT_FINITE, s)
        self.write("y", y)

    def augmented(self, raw, sample, shape):
        """Return the image with zeros around it, perhaps mirrored, the corner of the window, and the noise to add."""
        shift_y = self["shift"] if shape[0] > 1 else 0
        raw = np.pad(raw, ((shift_y,) * 2, (self["shift"],) * 2, (0, 0)))
        words = random_words(self.flat("counters"), np.arange(1 + np.prod(shape)), sample, 0)
        room = [int(raw.shape[axis] - shape[axis]) for axis in (0, 1)]
        top, left = (int(words[0, axis]) * (room[axis] + 1) >> 32 for axis in (0, 1))
        if self["flip"] and int(words[0, 2]) >> 31:
            raw, left = raw[:, ::-1], room[1] - left  # the window itself is mirrored
        noise = (uniforms(words[1:]).reshape(-1, 4).sum(-1) - 2) * np.sqrt(3)
        return raw, top, left, self["noise"] * noise.reshape(shape)

    def windows(self):
        """Yield x shifted by each position of the kernel, in the order of the weights."""
        x, kh, kw = self.read("x"), self["kernel_h"], self["kernel_w"]
        (_, height, width, _), (ph, pw), has = x.shape, (kh // 2, kw // 2), self.tensor("x").halo
        if has[0] < ph or has[1] < pw:
            raise ValueError(f"row {self.row}: x has halo {has}, a kernel of {kh}x{kw} reads {ph, pw}")
        x = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
        for ky in range(kh):
            for kx in range(kw):
                yield x[:, ky : ky + height, kx : kx + width]

    def convolve(self, product, kernel):
        y = self.whole("b") if self.has("b") else 0
        for x, w in zip(self.windows(), kernel, strict=True):
            y = y + product(x, w)
        return y

    def product(self, kernel):
        y = self.convolve(np.matmul, kernel) + (self.read("y") if self["add"] else 0)
        y = np.where(y < 0, 0, y) if self["relu"] else y
        self.write("y", np.where(self.read("mask") > 0, y, 0) if self.has("mask") else y)

    def conv(self):
        self.product(self.whole("w"))

    def winograd_weights(self):
        u = filtered(self.whole("w"), filter_map(self["kernel_w"]), both=self["kernel_h"] > 1)
        self.whole("u")[0, :, : u[0].size] = u.reshape(len(u), -1)

    def winograd(self):
        self.product(self.unfiltered())

    def unfiltered(self):
        """Return the weights from which WINOGRAD_WEIGHTS made u."""
        channels = [self.tensor(name).shape[2] for name in "xy"]
        u = self.whole("u")[0, :, : np.prod(channels)].reshape(-1, *channels)
        return filtered(u, np.linalg.pinv(filter_map(self["kernel_w"])), both=self["kernel_h"] > 1)

    def winograd_wgrad(self):
        self.conv_wgrad()

    def conv_sgd(self):
        rate = self.flat("scalars")[layout.V_RATE]
        dw = np.array([np.einsum("syxc,syxo->co", x, self.read("dy"), optimize=True) for x in self.windows()])
        db = self.read("dy").sum((0, 1, 2))
        if not finite(dw) or not finite(db):
            self.record(Status.GRADIENT_NOT_FINITE)
        for name, gradient, decay in (("w", dw, self["decay"]), ("b", db, 0)):
            w = self.flat(name)
            w -= rate * (gradient.reshape(-1) + decay * w)

    def flip(self):
        self.write("flipped", self.whole("w")[::-1].transpose(0, 2, 1))

    def conv_wgrad(self):
        self.kernel_sums("syxc,syxo->co")

    def depthwise(self):
        kernel = self.whole("w").reshape(self["kernel_h"] * self["kernel_w"], -1)
        self.write("y", self.convolve(np.multiply, kernel[::-1] if self["flipped"] else kernel))

    def depthwise_wgrad(self):
        self.kernel_sums("syxc,syxc->c")

    def kernel_sums(self, product):
        self.sum_into("dw", [np.einsum(product, x, self.read("dy"), optimize=True) for x in self.windows()])
        self.sum_into("db", self.read("dy").sum((0, 1, 2)))

    def activation(self):
        self.write("y", activated(self.read("x"), self["kind"])[0])

    def activation_grad(self):
        slope, dy = activated(self.read("x"), self["kind"])[1], self.read("dy")
        self.write("dx", np.where(slope == 0, 0, slope * dy))

    def grouped(self, name):
        """Read as (sample, y, x, group, channel of the group), and the axes that one mean runs over."""
        values, group = self.read(name), self["kind"] == NormKind.GROUP
        values = values.reshape(*values.shape[:3], self["groups"] if group else 1, -1)
        return values, (1, 2, 4) if group else (3, 4)

    def norm(self):
        (x, axes), group = self.grouped("x"), self["kind"] == NormKind.GROUP
        m = x.mean(axes, keepdims=True) if group else 0
        r = 1 / np.sqrt(((x - m) ** 2).mean(axes, keepdims=True) + self["epsilon"])
        self.write("stats", np.concatenate((m, r), axis=-1) if group else r)
        y = ((x - m) * r).reshape(self.read("x").shape) * self.whole("gamma")
        self.write("y", y + self.whole("beta") if self.has("beta") else y)

    def normalised(self):
        """Return x before gamma and beta, grouped, and r, from the stored statistics."""
        x, _ = self.grouped("x")
        if self["kind"] == NormKind.RMS:
            m, r = 0, self.read("stats").reshape(*x.shape[:3], 1, 1)
        else:
            m, r = np.split(self.read("stats").reshape(self.count, 1, 1, -1, 2), 2, axis=-1)
        return (x - m) * r, r

    def norm_grad(self):
        (dy, axes), (xhat, r) = self.grouped("dy"), self.normalised()
        h = dy * self.whole("gamma").reshape(dy.shape[3:])
        dx = h - xhat * (h * xhat).mean(axes, keepdims=True)
        if self["kind"] == NormKind.GROUP:
            dx = dx - h.mean(axes, keepdims=True)
        self.write("dx", dx * r)

    def norm_wgrad(self):
        (dy, _), (xhat, _) = self.grouped("dy"), self.normalised()
        self.sum_into("dgamma", (dy * xhat).sum((0, 1, 2)))
        self.sum_into("dbeta", dy.sum((0, 1, 2)))

    def dropout(self):
        y, rate = self.rows("x").copy(), self["rate"]
        for s in range(self.count):
            blocks = np.arange((y[s].size + 3) // 4)
            u = uniforms(random_words(self.flat("counters"), blocks, self.first + s, self["stream"]))
            y[s] = np.where(u[: y[s].size] >= rate, y[s] / (1 - rate), 0)
        self.write("y", y)

    def load(self):
        y, s = self.read("y"), self.real("s")
        y[..., self["channel"] : self["channel"] + s.shape[-1]] = s * self["scale"]
        self.write("y", y)

    def couple(self):
        s, sign = self.read("s"), self["sign"]
        t = self.read("t")[..., self["channel"] : self["channel"] + s.shape[-1]]
        t = t.astype(np.float32) * np.float32(self["scale"]) if self.rounding else t * self["scale"]
        if s.dtype.kind == "i" and self.rounding:
            total, nan, outside = couple_on_grid(s, t, sign, np.float32(1 / self.grid_step("s")))
        else:
            total = self.real("s") + sign * t if sign else t
            nan, outside = np.isnan(total), np.isinf(np.float32(total))
        for i in range(self.count):
            if nan[i].any() or outside[i].any():
                self.record(Status.STATE_NOT_FINITE if nan[i].any() else Status.STATE_OVERFLOW, i)
        self.write("s", total)

    def accumulate(self):
        self.write("g", self.read("g") + self.read("t"))

    def copied(self):
        """Read x as y holds it: as real numbers, if y is a state that has lost its grid."""
        return self.real("x") if self.whole("y").dtype.kind == "f" else self.read("x")

    def copy(self):
        self.write("y", self.copied())

    def squeeze(self):
        large, small = (self.tensor(name).shape for name in ("yx" if self["inverse"] else "xy"))
        (height, width, _), (fh, fw) = small, (large[0] // small[0], large[1] // small[1])
        split = (height, width, fh, fw) if self["inverse"] else (height, fh, width, fw)  # of the sample in x
        self.write("y", self.copied().reshape(self.count, *split, large[2]).transpose(0, 1, 3, 2, 4, 5))

    def cells(self, height, width):
        """Yield the positions of each cell of a grid."""
        for r in range(self["rows"]):
            for c in range(self["columns"]):
                y = slice(r * height // self["rows"], (r + 1) * height // self["rows"])
                yield y, slice(c * width // self["columns"], (c + 1) * width // self["columns"])

    def pool(self):
        features = []
        for half in (self.real(name) for name in ("s1", "s2") if self.has(name)):
            half = np.where(half < 0, 0, half) if self["rectify"] else half
            features += [half[:, y, x].mean((1, 2)) for y, x in self.cells(*half.shape[1:3])]
        self.write("features", np.concatenate(features, axis=1))

    def pool_grad(self):
        d, start = self.rows("dfeatures"), 0
        for name, state in (("g1", "s1"), ("g2", "s2")):
            g = np.zeros((self.count, *self.tensor(name).shape))
            for y, x in self.cells(*g.shape[1:3]):
                part, start = d[:, None, None, start : start + g.shape[3]], start + g.shape[3]
                g[:, y, x] = part / g[0, y, x, 0].size
            self.write(name, g * (self.real(state) > 0) if self["rectify"] else g)

    def task_columns(self, columns):
        """Return the columns of the task at hand, all if none is given."""
        task = int(self.flat("counters")[layout.C_TASK]) - 1 if self.has("counters") else -1
        return slice(None) if task < 0 else slice(task * self["outputs"], (task + 1) * self["outputs"])

    def loss(self):
        function = (cross_entropy, binary_cross_entropy, mean_squared_error, soft_cross_entropy)[self["kind"]]
        is_class, part = self["kind"] == LossKind.CROSS_ENTROPY, self.task_columns(self.rows("z").shape[1])
        whole, z, target = np.zeros(self.rows("z").shape), self.rows("z")[:, part], self.rows("target")
        target = target if is_class else target[:, part]
        weights = self.flat("weights") if self.has("weights") else np.ones(z.shape[1])
        dz, losses = whole[:, part], np.zeros((self.count, 2))
        for s in range(self.count):
            good = 0 <= target[s, 0] < z.shape[1] if is_class else finite(target[s])
            if self["kind"] in (LossKind.BINARY_CROSS_ENTROPY, LossKind.SOFT_CROSS_ENTROPY):
                good = good and (abs(target[s] - 0.5) <= 0.5).all()
            if not good:
                self.record(Status.LABEL_OUT_OF_RANGE if is_class else Status.TARGET_NOT_FINITE, s)
                continue
            losses[s, 0], losses[s, 1], gradient = function(z[s], target[s], weights, self["smoothing"])
            dz[s] = gradient / self.n
            if not finite(losses[s, 0]):
                self.record(Status.LOSS_NOT_FINITE, s)
        self.write("dz", whole)
        self.write("losses", losses)

    def report(self):
        losses = self.whole("losses").reshape(-1, 2)
        self.flat("report")[...] = losses[np.arange(self.n) % len(losses)].sum(0) / self.n

    def probability(self):
        part = self.task_columns(self.rows("z").shape[1])
        whole, z = np.zeros(self.rows("z").shape), self.rows("z")[:, part]
        for s, row in enumerate(z):
            if not finite(row):
                self.record(Status.OUTPUT_NOT_FINITE, s)
        if self["kind"] in (LossKind.CROSS_ENTROPY, LossKind.SOFT_CROSS_ENTROPY):
            z = np.exp(z - z.max(-1, keepdims=True))
            z = z / z.sum(-1, keepdims=True)
        whole[:, part] = sigmoid(z) if self["kind"] == LossKind.BINARY_CROSS_ENTROPY else z
        self.write("p", whole)

    def schedule(self):
        scalars, counters = self.flat("scalars"), self.flat("counters")
        rate = self.rate_at(int(counters[layout.C_STEP]) + 1, self["warmup"])
        scalars[layout.V_RATE] = scalars[layout.V_FACTOR] * rate
        scalars[layout.V_CLIP], scalars[layout.V_TASK] = 1, counters[layout.C_TASK]
        for i, beta in enumerate((self["beta1"], self["beta2"])):
            scalars[layout.V_CORRECTION1 + i] = 1 / (1 - scalars[layout.V_POWER1 + i] * beta)

    def advance(self):
        scalars, counters = self.flat("scalars"), self.flat("counters")
        for i, beta in enumerate((self["beta1"], self["beta2"])):
            scalars[layout.V_POWER1 + i] *= beta
        counters[layout.C_STEP] += 1

    def rate_at(self, t, warmup):
        if t <= warmup:
            return self["rate"] * t / warmup
        q = min(1, (t - warmup) / (self["total"] - warmup)) if self["total"] > warmup else 1
        q = q if self["kind"] == layout.ScheduleKind.COSINE else 0
        return self["rate"] * (self["floor"] + (1 - self["floor"]) * (1 + np.cos(np.pi * q)) / 2)

    def grad_norm(self):
        scalars, slot = self.flat("scalars"), self["slot"]
        scalars[slot] = (0 if self["reset"] else scalars[slot]) + (self.flat("g") ** 2).sum()
        if slot == layout.V_GRAD_SQUARES and not finite(scalars[slot]):
            self.record(Status.GRADIENT_NOT_FINITE)

    def clip(self):
        scalars, limit = self.flat("scalars"), self["limit"]
        if self["kind"] == layout.ClipKind.ADAPTIVE:
            limit *= max(np.sqrt(scalars[layout.V_WEIGHT_SQUARES]), 1e-3)
        size = np.sqrt(scalars[layout.V_GRAD_SQUARES])
        scalars[layout.V_CLIP] = limit / size if size > limit else 1

    def update(self):
        scalars, w, g = self.flat("scalars"), self.flat("w"), self.flat("g")
        m, v = (self.flat(name) if self.has(name) else None for name in ("m", "v"))
        if not finite(g):
            return self.record(Status.GRADIENT_NOT_FINITE)
        columns, task = self.whole("w").shape[-1], int(scalars[layout.V_TASK])
        others = (np.arange(w.size) % columns // max(self["outputs"], 1) != task - 1) & (self["outputs"] * task > 0)
        kept = [(part, part[others]) for part in map(self.flat, filter(self.has, ("w", "m", "v", "path", "g")))]
        old, raw = w.copy(), g.copy()
        g = g * scalars[layout.V_CLIP] if self["clip"] else g
        if self.has("importance"):
            g = g + self["strength"] * self.flat("importance") * (w - self.flat("anchor"))
            self.flat("g")[...] = g  # scratch from here on
        rate, decay, b1, b2 = scalars[layout.V_RATE] * self["scale"], self["decay"], self["beta1"], self["beta2"]
        if self["kind"] == UpdateKind.SGD:
            g = change = g + decay * w
            if m is not None:
                m[...] = b1 * m + g
                change = g + b1 * m if self["nesterov"] else m
        elif self["kind"] == UpdateKind.ADAMW:
            w -= rate * decay * w
            m[...] = b1 * m + (1 - b1) * g
            v[...] = b2 * v + (1 - b2) * g**2
            c1, c2 = scalars[layout.V_CORRECTION1], scalars[layout.V_CORRECTION2]
            change = m * c1 / (np.sqrt(v * c2) + self["epsilon"])
        elif self["kind"] == UpdateKind.LION:
            change = np.sign(b1 * m + (1 - b1) * g) + decay * w
            m[...] = b2 * m + (1 - b2) * g
        w -= rate * change
        if self.has("path"):
            self.flat("path")[...] -= raw * (w - old)
        for part, values in kept:
            part[others] = values

    def fade(self):
        self.whole("y")[...] *= self.flat("scalars")[layout.V_SHARE] * self["factor"]

    def consolidate(self):
        w = self.flat("w")
        if self["kind"] == ConsolidationKind.SYNAPTIC_INTELLIGENCE:
            path, moved = self.flat("path"), w - self.flat("anchor")
            self.flat("importance")[...] += np.maximum(path, 0) / (moved**2 + self["damping"])
            path[...] = 0
        self.flat("anchor")[...] = w

    def fisher(self):
        g = self.flat("g")
        if not finite(g**2):
            self.record(Status.GRADIENT_NOT_FINITE)
        self.flat("importance")[...] += self.flat("scalars")[layout.V_SHARE] * g**2

    def exchange(self):
        task = int(self.flat("counters")[layout.C_TASK]) - 1
        if task >= 0:
            bank, w = self.flat("bank"), self.flat("w")
            own = bank[task * w.size : (task + 1) * w.size]
            if self["store"]:
                own[...] = w
            else:
                w[...] = own

    def init(self):
        w, value = self.flat("w"), np.float32(self["value"])  # in float32: initial weights are the kernels' own
        if self["random"]:
            words = random_words(self.flat("counters"), np.arange((w.size + 3) // 4), 0, self["stream"], step=0)
            value = value * np.float32(2 * uniforms(words)[: w.size] - 1)
        w[...] = value

    def zero(self):
        self.whole("y")[...] = 0

    def range(self):
        for features in self.rows("features"):
            for name, extreme in (("low", np.minimum), ("high", np.maximum)):
                self.flat(name)[...] = extreme(self.flat(name), features)

    def quantise(self):
        low, high = self.flat("low"), self.flat("high")
        middle, reach = (low + high) / 2, (high - low) / 2
        factor = np.where(reach > 0, layout.LEVELS / np.where(reach > 0, reach, 1), 0)
        whole = np.rint((self.rows("f") - middle) * factor)
        self.write("f", np.clip(np.nan_to_num(whole, nan=-layout.LEVELS), -layout.LEVELS, layout.LEVELS))

    def ridge_sums(self):
        features, gram, counts, labels = (
            self.rows("features"), self.flat("gram"), self.flat("counts"), self.rows("labels")[:, 0],
        )
        moments, columns = self.flat("moments").reshape(features.shape[1] + 1, -1), np.arange(counts.size)
        columns = columns[self.task_columns(counts.size)]
        if gram.dtype == np.int32 and gram[-1] + self.count > layout.MOST_INT32_SAMPLES:
            return self.record(Status.SUMS_FULL, 0)
        for s in np.flatnonzero((labels < 0) | (labels >= columns.size)):
            return self.record(Status.LABEL_OUT_OF_RANGE, int(s))  # before any sum is touched
        for s, label in enumerate(labels):
            f = np.append(features[s], 1).astype(gram.dtype)
            gram += np.outer(f, f)[np.tril_indices(f.size)]
            moments[:, columns[label]] += f
            counts[columns[label]] += 1

    def ridge_solve(self):
        columns = self.flat("b").size
        size = len(self.flat("w")) // columns
        moments = self.flat("moments").reshape(size + 1, columns).astype(float)
        counts = moments[-1]  # of the constant feature
        gram = np.zeros((size + 1, size + 1))
        gram[np.tril_indices(size + 1)] = self.flat("gram")
        gram = gram + np.tril(gram, -1).T
        penalty, seen = self["strength"] * gram[-1, -1], counts > 1e-100 * gram[-1, -1]
        matrix = gram + np.diag(np.append(np.full(size, penalty), 0))
        means = moments[:-1] / np.where(seen, counts, 1)
        if self["kind"] == SolveKind.PROTOTYPE:
            matrix = matrix[:-1, :-1] - (means * counts * seen) @ means.T
        if not np.isfinite(matrix).all() or np.linalg.eigvalsh(matrix)[0] <= 0:
            return self.record(Status.NOT_POSITIVE_DEFINITE)
        if self["kind"] == SolveKind.PROTOTYPE:
            weights = np.linalg.solve(matrix, means) * gram[-1, -1]
            bias = -0.5 * (weights * means).sum(0)
        else:
            solution = np.linalg.solve(matrix, moments)
            weights, bias = solution[:-1], solution[-1]
        self.flat("w")[...] = np.where(seen, weights, self.flat("w").reshape(size, columns)).reshape(-1)
        self.flat("b")[...] = np.where(seen, bias, self.flat("b"))

    def peak(self):
        for _ in range(self["rounds"]):
            self.whole("y")[...] = self["factor"] * self.whole("y") + self["addend"]


def filter_map(taps):
    """Return the matrix G of Winograd's minimal filtering for four outputs (Lavin and Gray 2016, section 4)."""
    points = [0, 1, -1, 2, -2, 1 / 2, -1 / 2][: taps + 2]
    rows = [[p**k / np.prod([p - q for q in points if q != p]) for k in range(taps)] for p in points]
    return np.array([*rows, [k == taps - 1 for k in range(taps)]], float)


def filtered(weights, matrix, *, both):
    """Map kernels (taps, in, out), in both directions of an image or in one, by `matrix`."""
    channels = weights.shape[-2:]
    if both:
        grid = weights.reshape(matrix.shape[1], matrix.shape[1], *channels)
        return np.einsum("ia,jb,abco->ijco", matrix, matrix, grid).reshape(-1, *channels)
    return np.einsum("ia,aco->ico", matrix, weights)


def finite(values):
    return bool(np.isfinite(np.float32(values)).all())


def philox(counter, key):
    """Philox 4x32-10 (Salmon et al. 2011): four words, each like the broadcast of the four parts of `counter`."""
    c0, c1, c2, c3 = (np.asarray(part, np.uint64) for part in counter)
    k0, k1 = key
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)


def random_words(counters, first, sample, stream, step=None):
    """Return four words for each first part of the counter in `first`."""
    seed, now = int(counters[layout.C_SEED]), int(counters[layout.C_STEP])
    key = (seed % 2**32, (seed >> 32) % 2**32)
    return philox((first, sample, stream, (now if step is None else step) % 2**32), key)


def uniforms(words):
    return (words >> np.uint64(8)).reshape(-1) * 2.0**-24


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def activated(x, kind):
    """Return f(x) and f'(x); at infinity their limits, which are reached long before 1000."""
    if kind == Activation.RELU:
        return np.maximum(x, 0), np.where(x > 0, 1, 0)
    x, near = np.maximum(x, -1e3), np.clip(x, -1e3, 1e3)
    if kind == Activation.SILU:
        return x / (1 + np.exp(-x)), sigmoid(near) * (1 + near * (1 - sigmoid(near)))
    t, inner_slope = np.tanh(np.sqrt(2 / np.pi) * (near + 0.044715 * near**3)), 1 + 3 * 0.044715 * near**2
    return x / 2 * (1 + t), (1 + t) / 2 + near / 2 * (1 - t**2) * np.sqrt(2 / np.pi) * inner_slope


def couple_on_grid(s, t, sign, steps_per_unit):
    """Return the new state, and where it was NaN or out of range; the grid is found in float32, as the kernels do."""
    low, high = np.iinfo(s.dtype).min, np.iinfo(s.dtype).max
    steps = np.rint(np.float32(t) * steps_per_unit).astype(np.float64)
    nan, outside = np.isnan(steps), (steps < low) | (steps > high)
    grid = np.where(nan, 0, np.clip(steps, low, high)).astype(np.int64)
    total = s.astype(np.int64) + sign * grid if sign else grid
    outside |= (total < low) | (total > high)
    return np.clip(total, low, high).astype(s.dtype), nan, outside


def cross_entropy(z, target, weights, e):
    """Return the loss, the share of right answers and the gradient with respect to z."""
    y, nll = int(target[0]), np.log(np.exp(z - z.max()).sum()) + z.max() - z
    wanted = (1 - e) * (np.arange(z.size) == y) + e / z.size
    loss = (1 - e) * nll[y] + e * nll.mean()
    return weights[y] * loss, np.argmax(z) == y, weights[y] * (np.exp(-nll) - wanted)


def soft_cross_entropy(z, target, weights, smoothing):
    share, log_p = target * weights, z - z.max() - np.log(np.exp(z - z.max()).sum())
    right = float(np.argmax(z) == np.argmax(target))
    return -(share * log_p).sum(), right, np.exp(log_p) * share.sum() - share


def binary_cross_entropy(z, target, weights, e):
    t = target * (1 - e) + e / 2
    loss = np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))
    return (weights * loss).mean(), np.mean((z > 0) == (target > 0.5)), weights * (sigmoid(z) - t) / z.size


def mean_squared_error(z, target, weights, _):
    return (weights * (z - target) ** 2).mean(), 0.0, 2 * weights * (z - target) / z.size
