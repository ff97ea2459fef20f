"""sklearn_metrics.py BIN SOURCE - realistic files, with words, gaps and skewed counts, which this script draws: psd trains each by
one job file, and its metrics on the test set are within 1 % of those of scikit-learn on the same split. psdctl predict gives the
same metrics for the same rows, and a bad row is named. Skipped where Debian's python3-sklearn is not installed."""
import csv
import json
import os
import random
import subprocess
import sys
import tempfile

try:
    import numpy
    import sklearn
    from sklearn import linear_model, metrics, neural_network, preprocessing
except ImportError as missing:
    print(f"sklearn_metrics: skipped: {missing}; apt-get install python3-sklearn")
    sys.exit(77)

BIN = os.path.abspath(sys.argv[1])
os.chdir(tempfile.mkdtemp())
WITHIN = 0.01


def fail(text):
    print("sklearn_metrics:", text)
    sys.exit(1)


def psdctl(*words, code=0):
    end = subprocess.run([f"{BIN}/psdctl", *words], capture_output=True, text=True)
    if end.returncode != code:
        fail(f"psdctl {' '.join(words)} ended with {end.returncode}:\n{end.stdout}{end.stderr}")
    return end


def words_of(rng, n, size, skew=1.0):
    """n words of a column with `size` different ones, of which the first are frequent."""
    names = [f"w{i:x}" for i in range(size)]
    return rng.choices(names, [1 / (i + 1) ** skew for i in range(size)], k=n)


def effect(word, salt, scale):
    return scale * random.Random(f"{word}{salt}").gauss(0, 1)


def holes(rng, column, share, hole):
    return [hole if rng.random() < share else value for value in column]


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


# ---- Drawing ----

def draw_adult(n, seed):
    rng = random.Random(seed)
    age = [rng.randint(17, 90) for _ in range(n)]
    hours = [max(1, round(rng.gauss(40, 12))) for _ in range(n)]
    gain = [0 if rng.random() < 0.9 else round(rng.lognormvariate(8, 1)) for _ in range(n)]
    sizes = {"workclass": 8, "education": 16, "marital": 7, "occupation": 14, "country": 41}
    columns = {name: words_of(rng, n, size) for name, size in sizes.items()}
    label = []
    for i in range(n):
        z = -1 + 0.03 * (age[i] - 40) + 0.02 * (hours[i] - 40) + 0.25 * numpy.log1p(gain[i])
        z += sum(effect(columns[name][i], name, 0.6) for name in sizes)
        label.append(">50K" if rng.random() < 1 / (1 + numpy.exp(-z)) else "<=50K")
    age = holes(rng, age, 0.03, "")
    for name in ("workclass", "occupation"):
        columns[name] = holes(rng, columns[name], 0.06, "?")
    header = ["age", *sizes, "hours, per week", "gain", "income"]
    return header, list(zip(age, *columns.values(), hours, gain, label))


def draw_higgs(n, seed):
    rng = numpy.random.default_rng(seed)
    x = rng.normal(size=(n, 28)) 
    z = 1.5 * x[:, 0] * x[:, 1] + x[:, 2] ** 2 - 1 + x[:, 3] - 0.5 * x[:, 4] + 0.7 * numpy.abs(x[:, 5])
    label = rng.uniform(size=n) < 1 / (1 + numpy.exp(-2 * z))
    x = x * (1 + numpy.arange(28)) + numpy.arange(28) * 10
    rows = [[f"{value:.5f}" if rng.uniform() > 0.02 else "NaN" for value in row] for row in x]
    return [f"m{i}" for i in range(28)] + ["signal"], [row + [int(y)] for row, y in zip(rows, label)]


def draw_criteo(n, seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        counts = [round(rng.lognormvariate(1 + i % 4, 1.5)) - (i == 1) for i in range(13)]
        words = [f"{random.Random(f'{i}{min(int(rng.paretovariate(0.8)), 10 ** (1 + i % 4))}').getrandbits(32):08x}" for i in range(26)]
        z = -1.5 + sum(0.15 * numpy.log1p(max(c, 0)) * (-1) ** i for i, c in enumerate(counts))
        z += sum(effect(word, i, 0.35) for i, word in enumerate(words))
        label = int(rng.random() < 1 / (1 + numpy.exp(-z)))
        rows.append([label] + holes(rng, counts, 0.1, "") + holes(rng, words, 0.05, ""))
    return rows


def draw_houses(n, seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        area, rooms, town = rng.lognormvariate(4.5, 0.4), rng.randint(1, 8), words_of(rng, 1, 30)[0]
        price = 20 + 1.5 * area + 8 * rooms + effect(town, "town", 40) + rng.gauss(0, 30)
        rows.append([f"{area:.2f}" if rng.random() > 0.05 else "NA", rooms, town, f"{rng.uniform(0.2, 3):.3f}", f"{price:.3f}"])
    return ["area", "rooms", "town", "w", "price"], rows


# ---- scikit-learn's results ----

def number(text):
    try:
        return float(text)
    except ValueError:
        return numpy.nan


def signed_log1p(x):
    return numpy.sign(x) * numpy.log1p(numpy.abs(x))


def encode(train, test, numbers, words, logs=()):
    """Statistics of the training rows; a missing number becomes their mean, a missing word a separate word."""
    parts = []
    for rows in (train, test):
        x = numpy.array([[number(row[i]) for i in numbers] for row in rows], float)
        for k, i in enumerate(numbers):
            if i in logs:
                x[:, k] = signed_log1p(x[:, k])
        parts.append(x)
    fill = numpy.nanmean(parts[0], axis=0)
    scaler = preprocessing.StandardScaler().fit(parts[0])
    dense = [scaler.transform(numpy.where(numpy.isnan(x), fill, x)) for x in parts]
    if not words:
        return dense
    texts = [[["" if row[i] in ("", "?", "NA") else row[i] for i in words] for row in rows] for rows in (train, test)]
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore").fit(texts[0])
    from scipy import sparse
    return [sparse.hstack([sparse.csr_matrix(d), encoder.transform(t)]).tocsr() for d, t in zip(dense, texts)]


def judge_classes(y, chance):
    return {"accuracy": metrics.accuracy_score(y, chance > 0.5), "auc": metrics.roc_auc_score(y, chance),
            "logloss": metrics.log_loss(y, chance)}


# ---- Comparing ----

def run(name, job):
    with open(f"{name}.yaml", "w") as file:
        json.dump({**job, "job": name, "save": f"{name}.safetensors", "run.dir": f"{name}.run", "progress": "none"}, file)
    psdctl("run", f"{name}.yaml")
    with open(f"{name}.run/summary.json") as file:
        return json.load(file)["test_metrics"]


def compare(name, ours, theirs):
    for metric, value in theirs.items():
        off = abs(ours[metric] - value) / abs(value)
        print(f"sklearn_metrics: {name}: {metric}: psd {ours[metric]:.5f}, scikit-learn {value:.5f}, {100 * off:.2f} % apart")
        if not off <= WITHIN:
            fail(f"{name}: {metric} is more than {100 * WITHIN:.0f} % apart")


def predictions(name, rows):
    end = psdctl("predict", f"{name}.yaml", f"--rows={rows}")
    return list(csv.reader(end.stdout.splitlines())), end.stderr


def named(name, file, line, column, wrong):
    """The job with one invalid cell in its file: the message names line and column."""
    with open(file) as whole:
        lines = whole.read().split("\n")
    fields = lines[line - 1].split("\t" if file.endswith("tsv") else ",")
    fields[column] = wrong
    at = 1 + sum(len(field) + 1 for field in fields[:column])
    lines[line - 1] = ("\t" if file.endswith("tsv") else ",").join(fields)
    with open(f"bad-{file}", "w") as out:
        out.write("\n".join(lines))
    form = "criteo" if file.endswith("tsv") else "csv"
    end = psdctl("config", "check", f"{name}.yaml", f"--data-train={form}:bad-{file}", code=65)
    if f"bad-{file}:{line}:{at}: '{wrong}'" not in end.stderr:
        fail(f"{name}: the bad row is not named: {end.stderr}")


def check_adult():
    header, train = draw_adult(8000, 1)
    _, test = draw_adult(4000, 2)
    write_csv("adult.csv", header, train)
    write_csv("adult-test.csv", header, test)
    ours = run("adult", {
        "model": {"kind": "logistic"}, "optimizer": "adam(lr=0.05)", "schedule": "cosine(steps=1250, warmup=20)", "workers.min": 2,
        "servers": 2, "stop.epochs": 40, "eval.every": 0, "data": {
            "train": "csv:adult.csv", "test": "csv:adult-test.csv", "categorical": ["*"], "na": "mean", "log1p": ["gain"],
            "scale": "standard", "batch": 256}})
    x, t = encode(train, test, [0, 6, 7], [1, 2, 3, 4, 5], logs=[7])
    y, u = [[int(row[-1] == ">50K") for row in rows] for rows in (train, test)]
    model = linear_model.LogisticRegression(C=1e9, max_iter=2000).fit(x, y)
    compare("adult-like", ours, judge_classes(u, model.predict_proba(t)[:, 1]))
    lines, said = predictions("adult", "csv:adult-test.csv")
    if lines[0] != ["prediction", "p_<=50K", "p_>50K"] or len(lines) != 4001:
        fail(f"predictions: {lines[:2]}")
    same = judge_classes(u, numpy.array([float(line[2]) for line in lines[1:]]))
    if any(abs(same[metric] - ours[metric]) > 1e-6 for metric in same) or f"accuracy {ours['accuracy']:.6g}" not in said:
        fail(f"psdctl predict says {same} of the rows of which the job says {ours}, and {said}")
    # Other order of columns, no label, one more column, and a word that is new.
    mixed = [["x", *reversed(row[:-1])] for row in test[:50]]
    write_csv("adult-new.csv", ["x", *reversed(header[:-1])], mixed)
    again, said = predictions("adult", "csv:adult-new.csv")
    if again != lines[:51] or "accuracy" in said:
        fail("psdctl predict wants columns in the order of training")
    write_csv("adult-less.csv", header[1:], [row[1:] for row in test[:50]])
    end = psdctl("predict", "adult.yaml", "--rows=csv:adult-less.csv", code=65)
    if "no column is named 'age'" not in end.stderr:
        fail(end.stderr)
    named("adult", "adult.csv", 4711, 0, "young")


def check_higgs():
    header, train = draw_higgs(20000, 3)
    _, test = draw_higgs(10000, 4)
    write_csv("higgs.csv", header, train)
    write_csv("higgs-test.csv", header, test)
    ours = run("higgs", {
        "model": {"kind": "mlp", "layers": [28, 64, 2]}, "optimizer": "adam(lr=2e-3)", "schedule": "cosine(steps=2355)",
        "stop.epochs": 15, "eval.every": 0, "data": {
            "train": "csv:higgs.csv", "test": "csv:higgs-test.csv", "na": "mean", "scale": "standard", "batch": 128}})
    x, t = encode(train, test, list(range(28)), [])
    y, u = [[row[-1] for row in rows] for rows in (train, test)]
    # Its Adam has no schedule: the script lowers the rate after each epoch.
    model = neural_network.MLPClassifier((64,), alpha=0, learning_rate_init=2e-3, batch_size=128, random_state=1, warm_start=True, max_iter=1)
    import warnings
    warnings.simplefilter("ignore")
    for epoch in range(15):
        model.learning_rate_init = 2e-3
        model.partial_fit(x, y, classes=[0, 1])
        model._optimizer.learning_rate_init = 1e-3 * (1 + numpy.cos(numpy.pi * (epoch + 1) / 15))
    compare("higgs-like", ours, judge_classes(u, model.predict_proba(t)[:, 1]))
    named("higgs", "higgs.csv", 20001, 27, "1;5")


def check_criteo():
    train, test = draw_criteo(12000, 5), draw_criteo(6000, 6)
    for path, rows in (("criteo.tsv", train), ("criteo-test.tsv", test)):
        with open(path, "w") as file:
            file.writelines("\t".join(map(str, row)) + "\n" for row in rows)
    decay = 1e-3
    ours = run("criteo", {
        "model": {"kind": "logistic"}, "optimizer": f"adam(lr=0.02, weight_decay={decay})", "schedule": "cosine(steps=1410)", "workers.min": 2,
        "stop.epochs": 30, "eval.every": 0, "data": {
            "train": "criteo:criteo.tsv", "test": "criteo:criteo-test.tsv", "na": "mean", "log1p": ["*"], "scale": "standard",
            "hash_bits": 18, "batch": 256}})
    x, t = encode(train, test, list(range(1, 14)), list(range(14, 40)), logs=list(range(1, 14)))
    y, u = [[row[0] for row in rows] for rows in (train, test)]
    model = linear_model.LogisticRegression(C=1 / (decay * len(train)), max_iter=2000).fit(x, y)
    compare("criteo-like", ours, judge_classes(u, model.predict_proba(t)[:, 1]))
    named("criteo", "criteo.tsv", 11999, 20, "zebra")


def check_houses():
    header, train = draw_houses(4000, 7)
    _, test = draw_houses(2000, 8)
    write_csv("houses.csv", header, train)
    write_csv("houses-test.csv", header, test)
    ours = run("houses", {
        "model": {"kind": "linear"}, "optimizer": "adam(lr=2)", "schedule": "cosine(steps=1280)", "stop.epochs": 40, "eval.every": 0, "data": {
            "train": "csv:houses.csv", "test": "csv:houses-test.csv", "categorical": ["town"], "na": "mean", "scale": "standard",
            "weight_column": "w", "batch": 128}})
    x, t = encode(train, test, [0, 1], [2])
    y, u = [numpy.array([float(row[4]) for row in rows]) for rows in (train, test)]
    w, v = [numpy.array([float(row[3]) for row in rows]) for rows in (train, test)]
    model = linear_model.LinearRegression().fit(x, y, sample_weight=w)
    theirs = model.predict(t)
    compare("houses-like", ours, {"mse": metrics.mean_squared_error(u, theirs, sample_weight=v),
                                  "mae": metrics.mean_absolute_error(u, theirs, sample_weight=v),
                                  "r2": metrics.r2_score(u, theirs, sample_weight=v)})
    # scikit-learn's weights, imported from numpy's file, give its predictions: the columns are encoded alike.
    numpy.savez_compressed("houses.npz", **{"linear.weight": model.coef_[None, :], "linear.bias": numpy.array([model.intercept_])})
    psdctl("import", "houses.yaml", "--from=houses.npz", "--to=theirs.safetensors")
    end = psdctl("predict", "houses.yaml", "--weights=theirs.safetensors")
    brought = numpy.array([float(line) for line in end.stdout.split()[1:]])
    off = numpy.max(numpy.abs(brought - theirs) / numpy.abs(theirs))
    print(f"sklearn_metrics: houses-like: imported weights predict the same to {off:.1e}")
    if not off < 1e-4:
        fail("imported weights predict otherwise")


check_adult()
check_higgs()
check_criteo()
check_houses()
print("sklearn_metrics: ok")
