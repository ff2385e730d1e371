"""Parameter files: what is read, and that every mistake is named with its line and what is expected."""

import numpy as np
import pytest

from jaxmlip.energy import EAM, StillingerWeber, Tersoff
from jaxmlip.energy.lammps_files import read_funcfl, read_setfl, read_triplets

SW = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20\n  -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0\n"
TERSOFF = "Si Si Si 3.0 1.0 1.3258 4.8381 2.0417 0.0 22.956 0.33675 1.3258 95.373 3.0 0.2 3.2394 3264.7\n"


def write(folder, text, name="file.txt"):
    path = folder / name
    path.write_text(text)
    return path


def setfl(elements=("Al", "Cu"), points=6, fs=False, per_line=4):
    """A setfl file of small numbers that are all different."""
    value = iter(np.arange(1, 10_000) / 64.0)

    def table():
        numbers = [f"{next(value):.17e}" for _ in range(points)]
        return [" ".join(numbers[k : k + per_line]) for k in range(0, points, per_line)]

    lines = ["a comment", "another # one", "a third", f"{len(elements)} {' '.join(elements)}"]
    lines += [f"{points} 0.5 {points} 0.25 1.2"]
    for element in elements:
        lines += [f"13 26.98 4.05 fcc ! {element}", *table()]
        for _ in range(len(elements) if fs else 1):
            lines += table()
    for _ in range(len(elements) * (len(elements) + 1) // 2):
        lines += table()
    return lines


def test_comments_units_and_entries_over_several_lines(tmp_path):
    text = f"# UNITS: metal\n\n{SW}! a comment\nGe Ge Ge " + " ".join(["1.0"] * 11) + " # another\n"
    found = read_triplets(write(tmp_path, text), StillingerWeberFields, ["Si"])
    assert found.numbers == (14,) and found.lines.item() == 3
    assert found.values[0, 0, 0, :4].tolist() == [2.1683, 2.0951, 1.8, 21.0]


StillingerWeberFields = ("epsilon", "sigma", "a", "lambda", "gamma", "costheta0", "A", "B", "p", "q", "tol")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "no entries"),
        ("# UNITS: real\n" + SW, "line 1: only units `metal` .* has `real`"),
        ("# one\n" + SW.replace("21.0", "much"), "line 2: expected a number for `lambda`; got 'much'"),
        ("# one\n" + SW.replace("21.0", "nan"), "line 2: expected a number for `lambda`; got 'nan'"),
        ("\n\n" + SW.replace("0.0 0.0\n", "0.0\n"), "line 3: expected three elements and 11 .* after 13 words"),
        (SW.replace("0.0 0.0\n", "0.0 0.0 7\n"), "line 1: expected three elements and 11 numbers .* got 15 words"),
        (SW + SW, "line 3: expected each triplet once; got Si Si Si again, after line 1"),
        (SW + SW.replace("Si Si Si", "Si Si C"), "no entry for .*C C C.*2 elements need all 8 triplets"),
        (SW.replace("Si", "Qq"), "not elements: Qq -> Qq"),
        ("# one\n" + SW.replace("21.0", "-21.0"), "line 2: the entry Si Si Si must have `lambda` of at least 0"),
        (SW.replace("1.80", "0.0"), "line 1: the entry Si Si Si must have `a` above 0"),
    ],
)
def test_malformed_stillinger_weber_files_are_refused_with_the_line(tmp_path, text, message):
    path = write(tmp_path, text, "bad.sw")
    with pytest.raises(ValueError, match=message) as error:
        StillingerWeber.from_file(path)
    assert "bad.sw" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" 3.0 1.0 1.3258", " 2.0 1.0 1.3258", "line 1: the entry Si Si Si must have `m` of 1 or 3"),
        ("3.0 0.2 3.2394", "3.0 4.0 3.2394", "`D` above 0 and at most `R`"),
        ("2.0417", "0.0", "`d` above 0"),
        ("22.956", "0.0", "`n` above 0"),
        ("0.33675", "-1", "`beta` of at least 0"),
        ("3264.7", "", "line 1: expected three elements and 14 numbers .* after 16 words"),
    ],
)
def test_malformed_tersoff_files_are_refused_with_the_line(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        Tersoff.from_file(write(tmp_path, TERSOFF.replace(old, new)))


def test_labels_that_are_no_elements_are_mapped_and_missing_elements_are_named(tmp_path):
    path = write(tmp_path, TERSOFF.replace("Si", "Si(B)"))
    assert Tersoff.from_file(path, elements={"Si(B)": "Si"}).elements == (14,)
    with pytest.raises(ValueError, match="no parameters for Ge; the file has Si"):
        Tersoff.from_file(write(tmp_path, TERSOFF, "other"), elements=["Ge"])
    with pytest.raises(ValueError, match=r"not elements: Si\(B\)"):
        Tersoff.from_file(path)
    with pytest.raises(ValueError, match="file.sw: cannot be read"):
        Tersoff.from_file(tmp_path / "file.sw")


def test_tables_of_a_setfl_file_are_found_in_their_places(tmp_path):
    table = read_setfl(write(tmp_path, "\n".join(setfl())), finnis_sinclair=False)
    start = np.arange(0, 7 * 6, 6) / 64.0 + 1 / 64.0
    assert table.numbers == (13, 29) and (table.drho, table.dr, table.cutoff) == (0.5, 0.25, 1.2)
    np.testing.assert_array_equal(table.embedding[:, 0], start[[0, 2]])
    np.testing.assert_array_equal(table.density[:, 0, 0], start[[1, 3]])
    np.testing.assert_array_equal(table.pair[:, :, 0], start[[[4, 5], [5, 6]]])
    np.testing.assert_array_equal(table.pair[0, 1], start[5] + np.arange(6) / 64.0)


def test_densities_of_a_finnis_sinclair_file_are_of_the_first_at_the_second(tmp_path):
    path = write(tmp_path, "\n".join(setfl(("Cu", "Al"), fs=True)))
    table = read_setfl(path, finnis_sinclair=True)  # elements are sorted: Al, Cu
    start = np.arange(0, 12 * 6, 6) / 64.0 + 1 / 64.0
    np.testing.assert_array_equal(table.density[:, :, 0], start[[[5, 4], [2, 1]]])
    np.testing.assert_array_equal(table.pair[:, :, 0], start[[[8, 7], [7, 6]]])
    assert read_setfl(path, finnis_sinclair=True, elements="Al").density.shape == (1, 1, 6)


@pytest.mark.parametrize(
    ("line", "new", "message"),
    [
        (4, "0 Al", "line 4: expected a positive whole number for the number of elements; got '0'"),
        (4, "3 Al Cu", "line 4: expected 3 elements after their number; got 2"),
        (5, "6 0.5 6 0.25", "line 5: expected five numbers, `Nrho drho Nr dr cutoff`; got 4"),
        (5, "6.0 0.5 6 0.25 1.2", "line 5: expected a positive whole number for `Nrho`; got '6.0'"),
        (5, "6 0.5 6 -0.25 1.2", "line 5: expected `drho`, `dr` and `cutoff` above 0; got -0.25"),
        (5, "3 0.5 3 0.25 1.2", "line 5: expected at least 5 points in a table; got 3"),
        (6, "13 26.98 4.05", "line 6: expected four words .* of Al; got 3"),
        (8, "1.0 x", "line 8: expected a number for the embedding energies of Al; got 'x'"),
        (8, "1.0 2.0 3.0", "line 8: expected 6 numbers for the embedding energies of Al; got 7"),
        (10, "1.0", "line 11: expected a number for the densities of Al; got 'fcc'"),
        (15, "1.0 inf", "line 15: expected a number for the densities of Cu; got 'inf'"),
        (21, "1.0 2.0\nmore", "line 22: expected the end of the file; got 'more'"),
    ],
)
def test_malformed_setfl_files_are_refused_with_the_line(tmp_path, line, new, message):
    lines = setfl()
    lines[line - 1] = new
    with pytest.raises(ValueError, match=message):
        EAM.from_setfl(write(tmp_path, "\n".join(lines)))


def test_a_setfl_file_that_ends_too_early_says_what_is_missing(tmp_path):
    path = write(tmp_path, "\n".join(setfl()[:-1]))
    with pytest.raises(ValueError, match="line 20: expected the pair energies of Cu and Cu: 6 numbers, 4 so far"):
        EAM.from_setfl(path)
    with pytest.raises(ValueError, match="expected four words|expected a number"):
        EAM.from_finnis_sinclair(write(tmp_path, "\n".join(setfl())))
    with pytest.raises(ValueError, match="no parameters for Ni; the file has Al, Cu"):
        EAM.from_setfl(write(tmp_path, "\n".join(setfl())), elements=["Ni"])


def funcfl(number=29, points=8, step=0.25):
    x = np.arange(points) * step
    tables = [-np.sqrt(x + 1.0), 5.0 * np.exp(-x), 2.0 - x / 8.0]
    return [f"copper\n {number} 63.55 3.615 FCC", f"{points} {step} {points} {step} 1.5"] + [
        " ".join(f"{v:.17g}" for v in table) for table in tables
    ]


def test_funcfl_files_are_brought_to_one_grid(tmp_path):
    """The coarser grid holds; a cubic through four points keeps what is linear."""
    fine = write(tmp_path, "\n".join(funcfl(28, 20, 0.1)), "fine")
    coarse = write(tmp_path, "\n".join(funcfl()), "coarse")
    table = read_funcfl([coarse, fine])
    assert table.numbers == (28, 29) and table.dr == 0.25 and table.pair.shape == (2, 2, 8)
    linear = 2.0 - 0.25 * np.arange(8) / 8.0
    np.testing.assert_allclose(table.density, np.broadcast_to(linear, (2, 1, 8)), rtol=1e-14)
    np.testing.assert_allclose(table.pair[1, 1, :7], 27.2 * 0.529 * 25.0 * np.exp(-0.5 * np.arange(7)), rtol=1e-14)
    with pytest.raises(ValueError, match="one funcfl file for each element"):
        EAM.from_funcfl(coarse, coarse)


def test_malformed_funcfl_files_are_refused_with_the_line(tmp_path):
    for old, new, message in (
        (" 29 ", " Cu ", "line 2: expected a positive whole number for the atomic number; got 'Cu'"),
        (" 29 ", " 290 ", "line 2: expected an atomic number up to 118; got 290"),
        ("8 0.25 8", "8 0.25 9", "line 6: expected the densities: 9 numbers|line 6: expected 9 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            EAM.from_funcfl(write(tmp_path, "\n".join(funcfl()).replace(old, new, 1)))
