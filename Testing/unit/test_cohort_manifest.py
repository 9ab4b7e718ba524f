"""The table of patients: what is read of it, and what is refused in one line that names rows and never a patient."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.cohort.manifest import ManifestRow, fingerprint, read_manifest
from P2SAMSlicerLib.cohort.told_reason import told_reason
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource, PatientVisit, VisitOrder


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """A folder with two patients' folders."""
    for name in ("Doe^Jane", "Roe^Rick", "O'Neil, Ann"):
        (tmp_path / name).mkdir()
    return tmp_path


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "patients.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_all_columns_are_read_in_any_order_and_folders_are_relative_to_the_table(clinic: Path) -> None:
    other = clinic / "O'Neil, Ann"
    header = "Folder,patient,FROM,prior,segments,followups"
    lines = [header, "Doe^Jane,MRN1,Previous,visit_2,GTV; LN 1;;GTV,3;4", f'"{other}",MRN2']
    text = "\n".join(lines)
    first, second = read_manifest(table(clinic, text))
    assert first == ManifestRow(2, "MRN1", clinic / "Doe^Jane", "visit_2", ("GTV", "LN 1"), "previous", ("3", "4"))
    assert second == ManifestRow(3, "MRN2", other)
    assert (first.label, second.label) == ("p0001", "p0002")
    assert "MRN" not in repr(first)
    assert "Doe" not in repr(first)


@pytest.mark.parametrize(
    "text",
    [
        '\ufeffpatient;folder;segments\r\nMRN1;Doe^Jane;"GTV;LN"\r\n;;\r\nMRN2;Roe^Rick;\r\n',
        "patient\tfolder\tsegments\nMRN1\tDoe^Jane\tGTV;LN\n\nMRN2\tRoe^Rick\n",
        'sep=;\npatient;folder;segments\nMRN1;Doe^Jane;"GTV;LN"\nMRN2;Roe^Rick',
        "patient,folder,segments,\nMRN1,Doe^Jane,GTV;LN,\n,,,\n  MRN2  , Roe^Rick ,,\n",
    ],
    ids=["excel", "tabs", "sep", "blank cells"],
)
def test_what_spreadsheets_write_is_read(clinic: Path, text: str) -> None:
    rows = read_manifest(table(clinic, text))
    assert [row.patient for row in rows] == ["MRN1", "MRN2"]
    assert rows[0].segments == ("GTV", "LN")
    first = 3 if text.startswith("sep=") else 2
    assert rows[0].row == first
    # Blank rows count, as they do in the spreadsheet.
    assert rows[1].row == first + (1 if text.startswith("sep=") else 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "patients.csv: is empty; it needs a header with the columns patient and folder"),
        ("patient,folder\n", "patients.csv: names no patient below its header"),
        ("SECRET,Doe^Jane\n", "row 1: has no column patient and no column folder; known are patient, folder, prior, segments"),
        ("patient,folder,colour\nSECRET,Doe^Jane,red\n", "row 1: unknown column 'colour'; known are"),
        ("patient,folder,patient\nSECRET,Doe^Jane,SECRET\n", "row 1: the column patient is there 2 times"),
        ("patient,folder\nSECRET,Doe^Jane\nSECRET2,\n", "row 3: the cell folder is empty"),
        ("patient,folder\n,Doe^Jane\n", "row 2: the cell patient is empty"),
        ("patient,folder\nSECRET,SECRET\nOTHER,Doe^Jane\n", "row 2: its folder is not there"),
        ("patient,folder\nSECRET,patients.csv\n", "row 2: its folder is not there"),
        ("patient,folder\nSECRET,a\0b\n", "row 2: its folder is not there"),
        ("patient,folder\nSECRET,Doe^Jane\n\nsecret,Roe^Rick\n", "rows 2 and 4 name the same patient"),
        ("patient,folder\nSECRET,Doe^Jane\nOTHER,./Roe^Rick/../Doe^Jane\n", "rows 2 and 3 name the same folder"),
        ("patient,folder\nSECRET,Doe^Jane,SECRET\n", "row 2: has more cells than the header"),
        ("patient,folder,from\nSECRET,Doe^Jane,SECRET\n", "row 2: from is none of prior, previous, approved"),
        ('patient,folder\n"SECRET,Doe^Jane\n', "is no table of comma-separated values"),
        ("patient,folder\nSECR\u00c9T,Doe^Jane\n".encode("latin-1"), "is not text in UTF-8; save it as 'CSV UTF-8'"),
        ("patient,folder\nSECRET,Doe^Jane\n".encode("utf-16"), "is not text in UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00", "patients.csv: row 1: has no column patient and no column folder"),
        ("patient,folder\n" + "".join(f"SECRET{n},no{n}\n" for n in range(9)), "row 4: its folder is not there; and 6 more"),
    ],
)
def test_a_faulty_table_is_refused_in_one_line_without_a_patient(clinic: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(InputError) as refused:
        read_manifest(table(clinic, text))
    told = str(refused.value)
    assert words in told
    assert "\n" not in told
    for secret in ("SECR", "secret", "OTHER", "Doe^", "Rick", str(clinic)):
        assert secret not in told


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^none\.csv: cannot be read \(no such file"):
        read_manifest(tmp_path / "none.csv")


@settings(max_examples=40)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"patient,folder\n{text}".encode()))
def test_any_bytes_give_rows_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    refusal = ""
    rows: tuple[ManifestRow, ...] = ()
    try:
        rows = read_manifest(table(folder, content))
    except InputError as refused:
        refusal = str(refused)
    assert bool(refusal) != bool(rows)
    assert "\n" not in refusal
    assert all(row.patient and row.folder.is_dir() for row in rows)


def test_the_fingerprint_of_a_table_tells_every_change_and_no_name(clinic: Path) -> None:
    first = ManifestRow(2, "MRN1", clinic)
    others = [
        ManifestRow(3, "MRN1", clinic),
        ManifestRow(2, "MRN2", clinic),
        ManifestRow(2, "MRN1", clinic / "x"),
        ManifestRow(2, "MRN1", clinic, prior="2"),
        ManifestRow(2, "MRN1", clinic, segments=("GTV",)),
        ManifestRow(2, "MRN1", clinic, carried_from="prior"),
        ManifestRow(2, "MRN1", clinic, followups=("3",)),
    ]
    found = {fingerprint([each]) for each in (first, *others)}
    assert len(found) == 8
    assert fingerprint([first]) == fingerprint([ManifestRow(2, "MRN1", clinic)])
    assert all(len(each) == 64 for each in found)


def test_a_reason_names_neither_the_patient_nor_a_file_of_the_patients(clinic: Path) -> None:
    row = ManifestRow(2, "MRN-0815", clinic / "Doe^Jane")
    ct = CtSource((row.folder / "2024-05-31" / "Doe_CT.nii.gz", row.folder / "prior.nrrd"), False)
    prior = PatientVisit(1, "visit_1", 0, None, ct, (ContourSource(row.folder / "GTV Jane.seg.nrrd"),))
    order = VisitOrder((prior,), prior, Path("out") / "visit_2")
    left = "(name left out)"
    for reason, told in {
        "Doe_CT.nii.gz: is cut off": f"{left}: is cut off",
        "doe_ct: values of the prior are not HU": f"{left}: values of the prior are not HU",
        "patient MRN-0815, Doe^Jane": f"patient {left}, {left}",
        f"{row.folder}/2024-05-31 is empty": f"{left}/{left} is empty",
        "GTV Jane.seg.nrrd\nhas no 'GTV'": f"{left} has no 'GTV'",
        "visit_2: slices 3 and 4 are missing": "visit_2: slices 3 and 4 are missing",
    }.items():
        assert told_reason(reason, row, [order]) == told
    assert len(told_reason("word " * 400, row)) == 500
