"""What a parameter's value has to be, and its default."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


class Default:
    """The value of a parameter that was never assigned: given, or made by a function."""

    def __init__(self, value: Any = None, *, generator: Callable[[], Any] | None = None) -> None:
        self._value, self._generator = value, generator

    @property
    def value(self) -> Any:
        """The default."""
        import copy

        if self._generator is not None:
            return self._generator()
        return self._value if hasattr(self._value, "IsA") else copy.deepcopy(self._value)

    def __eq__(self, other: object) -> bool:
        return type(other) is Default and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


class Validator:
    """Raises ``ValueError`` for a value that a parameter must not have."""

    def validate(self, value: Any) -> None:
        """Check a value."""
        raise NotImplementedError


class NotNone(Validator):
    """Not None."""

    def validate(self, value: Any) -> None:
        """Check a value."""
        if value is None:
            raise ValueError("Value must not be None")


class IsInstance(Validator):
    """Of a type, or of one of several."""

    def __init__(self, classtype: Any) -> None:
        self.classtype = classtype

    def validate(self, value: Any) -> None:
        """Check a value."""
        if not isinstance(value, self.classtype):
            raise ValueError(f"Value must be of type {self.classtype}, is {type(value)}")


class Minimum(Validator):
    """Not below a number."""

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        """Check a value."""
        if value < self.minimum:
            raise ValueError(f"Value must be greater than or equal to {self.minimum}, is {value}")


class Maximum(Validator):
    """Not above a number."""

    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        """Check a value."""
        if value > self.maximum:
            raise ValueError(f"Value must be less than or equal to {self.maximum}, is {value}")


class WithinRange(Validator):
    """Between two numbers, both included."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        """Check a value."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class RangeBounds(WithinRange):
    """Both ends of a range between two numbers."""

    def validate(self, value: Any) -> None:
        """Check a value."""
        super().validate(value.minimum)
        super().validate(value.maximum)


class Choice(Validator):
    """One of the given values."""

    def __init__(self, choices: Iterable[Any]) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        """Check a value."""
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value}")


class Exclude(Validator):
    """None of the given values."""

    def __init__(self, excludedValues: Iterable[Any]) -> None:
        self.excludedValues = excludedValues

    def validate(self, value: Any) -> None:
        """Check a value."""
        if value in self.excludedValues:
            raise ValueError(f"Value must not be one of {self.excludedValues}, is {value}")


@dataclass
class Decimals:
    """How many digits a widget shows."""

    value: int


@dataclass
class SingleStep:
    """How far a widget's arrow goes."""

    value: float


@dataclass
class Label:
    """How a generated panel calls a parameter."""

    label: str


def bounds(validators: list[Any]) -> tuple[float, float]:
    """The limits that validators set; infinite where there is none."""
    low, high = -math.inf, math.inf
    for one in validators:
        low = max(low, getattr(one, "minimum", low))
        high = min(high, getattr(one, "maximum", high))
    return low, high


def choices(validators: list[Any]) -> list[Any] | None:
    """The values that a ``Choice`` allows, or None without one."""
    for one in validators:
        if isinstance(one, Choice):
            return list(one.choices)
    return None
