"""A locale that spells amounts of money unlike C: 1.234,56 EUR.

It is made by localedef of sources of our own, since a machine need have no locale but C.
"""

import subprocess

NAME = "amounts"
MONETARY = """comment_char %
escape_char /
LC_MONETARY
int_curr_symbol "EUR "
currency_symbol "EUR"
mon_decimal_point ","
mon_thousands_sep "."
mon_grouping 3;3
positive_sign ""
negative_sign "-"
int_frac_digits 2
frac_digits 2
p_cs_precedes 0
p_sep_by_space 1
n_cs_precedes 0
n_sep_by_space 1
p_sign_posn 1
n_sign_posn 1
END LC_MONETARY
"""


def make_locale(directory):
    """Makes the locale in a directory. What the environment of a server must hold to find it."""
    characters = "\n".join(f"<U{number:04X}> /x{number:02x} character" for number in range(128))
    (directory / "charmap").write_text(
        "<comment_char> %\n<escape_char> /\n<code_set_name> ASCII\n<mb_cur_min> 1\n<mb_cur_max> 1\n"
        f"CHARMAP\n{characters}\nEND CHARMAP\n"
    )
    (directory / "source").write_text(MONETARY)
    # It warns of the categories that are not there, and makes the locale all the same (-c).
    command = ["localedef", "--no-archive", "-c", "-f", "./charmap", "-i", "./source", f"./{NAME}"]
    subprocess.run(command, cwd=directory, capture_output=True)
    assert (directory / NAME / "LC_MONETARY").exists(), "localedef has made nothing"
    return {"LOCPATH": f"{directory}:/usr/lib/locale"}
