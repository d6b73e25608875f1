"""The day that a chat template reads, so that a dump renders the same text whenever and wherever it runs.

Templates ask `strftime_now(format)`, which transformers answers from the machine's clock, time zone and locale. A macro
of that name is put in front of the template: it answers from one date, at midnight and in English, as Python does
where no program has set a locale. A template that only reads the variable `date_string` is given it as "31 Jan 2025".
"""

import calendar
import re
from datetime import date

__all__ = ["at_date", "date_string", "reads_clock", "reads_date_string"]

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def reads_clock(template: str) -> bool:
    """Whether its text depends on the day even where nobody asks for one."""
    return re.search(r"\bstrftime_now\b", template) is not None


def reads_date_string(template: str) -> bool:
    """Whether a date reaches it as a variable alone. Left out, the template has a fixed day of its own."""
    return not reads_clock(template) and re.search(r"\bdate_string\b", template) is not None


def date_string(day: date) -> str:
    return f"{day:%d} {MONTHS[day.month - 1][:3]} {day:%Y}"


def at_date(template: str, day: date) -> str:
    """The template with a strftime_now of its own; the newline after the macro is one that Jinja drops."""
    replaced = "".join(f"|replace('%{sign}','{text}')" for sign, text in _directives(day).items())
    marked = f"format|replace('%%','\\x00'){replaced}|replace('\\x00','%')"
    return f"{{%- macro strftime_now(format) -%}}{{{{ {marked} }}}}{{%- endmacro %}}\n{template}"


def _directives(day: date) -> dict[str, str]:
    """What each directive of strftime stands for; the longer ones, with a flag, first."""
    weekday, month = DAYS[day.weekday()], MONTHS[day.month - 1]
    numbers = {
        **{sign: day.strftime(f"%{sign}") for sign in "CGUVWYdgjmuwy"},
        **{"H": "00", "I": "12", "M": "00", "S": "00", "e": f"{day.day:2}", "k": " 0", "l": "12", "f": "000000"},
        "s": str(calendar.timegm(day.timetuple())),
    }
    names = {"A": weekday, "a": weekday[:3], "B": month, "b": month[:3], "h": month[:3], "p": "AM", "P": "am"}
    whole = {
        "D": f"{day:%m/%d/%y}",
        "F": day.isoformat(),
        "R": "00:00",
        "T": "00:00:00",
        "X": "00:00:00",
        "c": f"{weekday[:3]} {month[:3]} {day.day:2} 00:00:00 {day.year}",
        "r": "12:00:00 AM",
        "x": f"{day:%m/%d/%y}",
        **{"Z": "", "z": "", "n": "\\n", "t": "\\t"},
    }
    flagged = {f"-{sign}": str(int(text)) for sign, text in numbers.items()}
    flagged |= {f"^{sign}": text.upper() for sign, text in names.items()}
    return flagged | numbers | names | whole
