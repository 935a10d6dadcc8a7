"""The files of a job: one meaning of columns and targets for all of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nestling.core.errors import DataError, JobError
from nestling.jobs.job import Job, read_job

pytest.importorskip("sklearn")


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def make_job(folder: Path, train: object, test: object = (), **data: object) -> Job:
    return read_job({"data": {"train": train, "test": test, **data}}, folder=folder)


def test_columns_of_all_files_are_matched_by_name(tmp_path: Path) -> None:
    write(tmp_path, "one.csv", "a,b,label\n1,10,0\n2,30,1\n")
    write(tmp_path, "two.csv", "label,b,a\n1,10,1\n0,30,2\n")
    write(tmp_path, "test.csv", "b,label,a\n30,1,2\n")
    first, second = make_job(tmp_path, ["one.csv", "two.csv"], "test.csv").load_experiences()
    assert torch.equal(first.train[0], second.train[0])
    assert torch.equal(first.test[0][0], first.train[0][1])
    assert second.train[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("header", "said"),
    [("a,c,label", "lacks the column 'b'"), ("a,b,c,label", "an unknown column 'c'")],
)
@pytest.mark.parametrize("place", ["train", "test"])
def test_other_columns_are_refused_wherever_they_stand(
    tmp_path: Path, header: str, said: str, place: str
) -> None:
    write(tmp_path, "one.csv", "a,b,label\n1,10,0\n2,30,1\n")
    write(tmp_path, "bad.csv", f"{header}\n{','.join('1' * (header.count(',') + 1))}\n")
    files = (["one.csv", "bad.csv"], "one.csv") if place == "train" else ("one.csv", "bad.csv")
    with pytest.raises(DataError) as caught:
        make_job(tmp_path, *files).load_experiences()
    assert said in str(caught.value)
    assert "bad.csv" in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_labels_or_values_is_decided_once(tmp_path: Path, suffix: str) -> None:
    for name, targets in (("real", [0.25, 1.5]), ("whole", [1.0, 2.0])):
        if suffix == "csv":
            rows = "".join(f"{at},{value}\n" for at, value in enumerate(targets))
            write(tmp_path, f"{name}.csv", "a,label\n" + rows)
        else:
            np.savez(tmp_path / f"{name}.npz", x=np.ones((2, 1)), label=np.array(targets))
    files = [f"{name}.{suffix}" for name in ("whole", "real")]
    experiences = make_job(tmp_path, files, files).load_experiences()
    assert all(one.train[1].dtype == one.test[1].dtype == torch.float32 for one in experiences)
    assert all(one.classes == () for one in experiences)
    (alone,) = make_job(tmp_path, files[0], files[0]).load_experiences()
    assert alone.classes == (1, 2)
    (said,) = make_job(tmp_path, files[0], files[0], targets="values").load_experiences()
    assert said.train[1].dtype == torch.float32


def test_labels_have_the_same_numbers_in_all_files(tmp_path: Path) -> None:
    write(tmp_path, "one.csv", "a,label\n1,wolf\n2,cat\n")
    write(tmp_path, "two.csv", "a,label\n1,dog\n")
    write(tmp_path, "test.csv", "a,label\n1,wolf\n1,dog\n")
    data = make_job(tmp_path, ["one.csv", "two.csv"], "test.csv").load_data()
    first, second = data.experiences
    assert data.encoding.labels == ("cat", "dog", "wolf")
    assert (first.train[1].tolist(), second.train[1].tolist()) == ([2, 0], [1])
    assert (first.classes, second.classes, first.test[1].tolist()) == ((0, 2), (1,), [2, 1])


def test_without_a_test_file_a_fifth_is_held_out(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "a,label\n" + "".join(f"{at},{at % 2}\n" for at in range(50)))
    data = make_job(tmp_path, "a.csv").load_data()
    (one,) = data.experiences
    assert (len(one.train[0]), len(one.test[0])) == (40, 10)
    seen = torch.cat([one.train[0], one.test[0]]).flatten().unique()
    assert len(seen) == 50, "a row is learned or held out, never both"
    assert torch.equal(make_job(tmp_path, "a.csv").load_experiences()[0].test[0], one.test[0])
    (held_out,) = data.held_out
    assert torch.equal(data.encoding.encode_inputs(held_out), one.test[0])
    write(tmp_path, "b.csv", "a,label\n1,1\n")
    with pytest.raises(DataError, match="too few"):
        make_job(tmp_path, "b.csv").load_data()


def test_tables_and_arrays_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "a,label\n1,1\n")
    np.savez(tmp_path / "b.npz", x=np.ones((2, 1)), label=np.array([0, 1]))
    with pytest.raises(DataError, match=r"mixes \.npz with tables"):
        make_job(tmp_path, "a.csv", "b.npz").load_data()


def test_a_model_without_sizes_fits_the_data(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "a,b,label\n" + "1,red,x\n2,red,y\n3,blue,z\n4,blue,x\n")
    job = make_job(tmp_path, "a.csv", "a.csv")
    done = job.complete(job.load_data())
    assert (job.is_open, done.is_open) == (True, False)
    assert done.model.options["sizes"] == [4, 128, 3]
    assert read_job(done.to_data()) == done
    write(tmp_path, "price.csv", "a,label\n1,250000\n2,1\n")
    priced = make_job(tmp_path, "price.csv", "price.csv")
    with pytest.raises(JobError, match="targets = 'values'"):
        priced.complete(priced.load_data())
    valued = make_job(tmp_path, "price.csv", "price.csv", targets="values")
    assert valued.complete(valued.load_data()).model.options["sizes"] == [1, 128, 1]
