"""Small CIFAR-10 sets of the true format."""

import io
import pickle
import tarfile

import numpy as np

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SIZE = 12  # pictures of each batch; a true one has 10,000


def batches():
    """Pixels [SIZE, 3072] and labels of the five training batches and of the test batch."""
    generator = np.random.default_rng(10)
    return [
        (generator.integers(0, 256, (SIZE, 3072), dtype=np.uint8), generator.integers(0, 10, SIZE).tolist())
        for _ in range(6)
    ]


def python_files(protocol=2):
    """By name, pickled as the true ones are."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {}
    for name, (pixels, labels) in zip(names, batches(), strict=True):
        entry = {"batch_label": name, "labels": labels, "data": pixels, "filenames": ["some_s_0001.png"] * SIZE}
        files[name] = pickle.dumps(entry, protocol)
    meta = {"num_cases_per_batch": SIZE, "label_names": CLASSES, "num_vis": 3072}
    return files | {"batches.meta": pickle.dumps(meta, 0)}


def binary_files():
    """By name, one byte for the label and 3,072 for the pixels of each picture."""
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    files = {}
    for name, (pixels, labels) in zip(names, batches(), strict=True):
        files[name] = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1).tobytes()
    return files | {"batches.meta.txt": ("\n".join(CLASSES) + "\n\n").encode()}


def put(folder, files):
    """Files into a folder that is made."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def put_archive(path, folder, files, **others):
    """The archive that is handed out, with other members in front of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {**others, **{f"{folder}/{name}": content for name, content in files.items()}}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
