"""Made-up card payments with rare fraud, chargebacks that come weeks late, drift and return.

Nothing of them is real; they are drawn, so that it is known what is fraud and when it changes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.random import Generator

from nestling.core.errors import SettingError

NUM_PAYMENTS = 50_000
NUM_PER_DAY = 250
NUM_PER_SCHEME = 10_000  # payments while one scheme prevails: 40 days
# The scheme that prevails: two come back after others.
PREVAILING = ("testing", "electronics", "testing", "abroad", "electronics")
FRAUD_RATE = 0.008
NUM_CUSTOMERS = 1_500
DAYS_OF_STATEMENT = 28
UNREPORTED, UNSETTLED = 0.1, 0.02  # shares of frauds and others of which nothing is ever heard

COUNTRIES = ("de", "fr", "nl", "it", "es", "pl", "us", "gb", "tr", "br", "th", "ng")
SHARE_OF_COUNTRIES = (0.4, 0.15, 0.1, 0.1, 0.08, 0.05, 0.04, 0.04, 0.015, 0.01, 0.01, 0.005)
# Merchant -> how usual it is, and its price level beside the customer's own.
MERCHANTS = {
    "grocery": (0.3, 0.6),
    "restaurant": (0.17, 0.7),
    "fuel": (0.1, 1.2),
    "clothes": (0.09, 1.3),
    "pharmacy": (0.07, 0.5),
    "digital": (0.09, 0.3),
    "games": (0.05, 0.4),
    "electronics": (0.035, 5.0),
    "travel": (0.035, 6.0),
    "gift cards": (0.02, 1.5),
    "cash": (0.04, 2.5),
}
DEVICES = ("chip", "phone", "browser", "tablet")
SHARE_OF_DEVICES = (0.45, 0.25, 0.22, 0.08)
# How busy each hour of the day is.
BUSY = (2, 1, 1, 1, 1, 2, 4, 7, 9, 9, 10, 11, 13, 12, 10, 10, 11, 13, 14, 13, 10, 8, 5, 3)


@dataclass(frozen=True)
class Payment:
    """One card payment: what is known when it is asked for, and what came out.

    Attributes:
        x: amount, merchant, country, device, hour, and how it compares with the customer's habits.
        is_fraud: the truth.
        amount: in euros, as in `x`.
        told_after: payments after which it is known what it was; None if it never is.
        scheme: of a fraud: "testing", "electronics", "abroad" or "takeover"; else empty.
    """

    x: dict[str, Any]
    is_fraud: bool
    amount: float
    told_after: int | None
    scheme: str = ""


@dataclass
class _Customer:
    """Habits of a customer, and what was paid of late."""

    home: str
    level: float  # of prices, in euros
    tastes: tuple[float, ...]  # cumulated, of merchants
    device: str
    statement: int  # day of the month
    since: float  # years
    usual: float  # mean amount
    last: float = -1e9  # day of the last payment
    num_lately: float = 0.0  # payments, halved every six hours
    is_away_until: float = -1.0
    away: str = ""


def make_payments(num_payments: int = NUM_PAYMENTS, *, seed: int = 0) -> Iterator[Payment]:
    """Card payments in the order of time: 0.8 % fraud, told weeks late, in schemes that return.

    A day has 250 payments. Each customer has a home country, a level of prices, tastes for
    merchants, a usual device; some travel, some buy a new device, some buy what is dear. 0.8 % of
    all payments are frauds on a customer's card, most of them by the scheme that prevails:

    - *testing*: small amounts at digital merchants and for games, in series on the same card, at
      night.
    - *electronics*: dear goods and gift cards from an unknown device, in the customer's country.
    - *abroad*: cash and travel far away, on a copied chip, of customers who do not travel.
    - *takeover*, always there, one fraud in six: gift cards and transfers like the customer's own
      payments, from an unknown device, soon after the password was changed.

    Schemes prevail for 10,000 payments each: testing, electronics, testing, abroad, electronics,
    and so on. Slowly everything becomes dearer (1 % in 20 days), and phones take the place of
    chips. A customer reads the statement once in 28 days: what it says of a payment, fraud or not,
    is known by then; a fraud takes 2 to 9 days more (the chargeback). Of one fraud in ten and of
    one other payment in fifty nothing is ever heard.

    Args:
        num_payments: how many, 1 or more.
        seed: of all that is drawn; the first payments do not depend on `num_payments`.

    Raises:
        SettingError: less than one payment.

    >>> first = next(make_payments(1, seed=0))
    >>> sorted(first.x)[:5], first.is_fraud
    (['amount', 'amount_over_usual', 'country', 'days_since_last', 'days_since_password'], False)
    """
    if num_payments < 1:
        raise SettingError(f"num_payments is {num_payments}; give 1 or more")
    return _draw_payments(num_payments, np.random.default_rng(seed))


def find_schemes(num_payments: int = NUM_PAYMENTS) -> list[tuple[int, str]]:
    """The first payment of each stretch with its prevailing scheme.

    >>> find_schemes(25_000)
    [(0, 'testing'), (10000, 'electronics'), (20000, 'testing')]
    """
    starts = range(0, num_payments, NUM_PER_SCHEME)
    return [(start, _name_scheme(start)) for start in starts]


def _name_scheme(number: int) -> str:
    return PREVAILING[number // NUM_PER_SCHEME % len(PREVAILING)]


def _draw_payments(num_payments: int, drawn: Generator) -> Iterator[Payment]:
    customers = [_draw_customer(drawn) for _ in range(NUM_CUSTOMERS)]
    busy = np.cumsum(BUSY) / sum(BUSY)
    victims: dict[str, tuple[float, _Customer]] = {}
    for number in range(num_payments):
        day = number / NUM_PER_DAY
        share = day % 1.0
        at = int(np.searchsorted(busy, share, side="right"))
        before = float(busy[at - 1]) if at else 0.0
        hour = float(at + (share - before) / (busy[at] - before))
        now = int(day) + hour / 24.0
        customer = customers[int(drawn.integers(NUM_CUSTOMERS))]
        scheme = _draw_scheme(number, hour, drawn)
        if scheme:
            # A card that works is used again within the day.
            when, victim = victims.get(scheme, (-1e9, customer))
            again = {"testing": 0.6, "abroad": 0.4}.get(scheme, 0.25)
            if now - when < 1.0 and drawn.random() < again:
                customer = victim
            victims[scheme] = (now, customer)
            paid = _draw_fraud(scheme, customer, drawn)
        else:
            paid = _draw_own(customer, now, drawn)
        dearer = 1.01 ** (now / 20.0)
        yield _finish(paid, customer, scheme, now, hour, dearer, drawn)


def _draw_customer(drawn: Generator) -> _Customer:
    usual = np.array([share for share, _ in MERCHANTS.values()])
    tastes = drawn.dirichlet(usual * 12.0)
    level = float(np.exp(drawn.normal(3.4, 0.6)))
    return _Customer(
        home=_pick(COUNTRIES, SHARE_OF_COUNTRIES, drawn),
        level=level,
        tastes=tuple(accumulate(tastes.tolist())),
        device=_pick(DEVICES, SHARE_OF_DEVICES, drawn),
        statement=int(drawn.integers(DAYS_OF_STATEMENT)),
        since=float(drawn.exponential(4.0)),
        usual=level,
    )


def _pick(names: tuple[str, ...], shares: tuple[float, ...], drawn: Generator) -> str:
    return names[min(int(np.searchsorted(np.cumsum(shares), drawn.random())), len(names) - 1)]


def _draw_scheme(number: int, hour: float, drawn: Generator) -> str:
    """The scheme of the next payment, empty if it is none."""
    is_night = hour < 6.0 or hour >= 22.0
    chance = FRAUD_RATE / 0.91 * (1.3 if is_night else 0.9)
    if drawn.random() >= chance:
        return ""
    if drawn.random() < 1 / 6:
        return "takeover"
    prevailing = _name_scheme(number)
    if drawn.random() < 0.1:  # the others never die out
        return _pick(("testing", "electronics", "abroad"), (1 / 3, 1 / 3, 1 / 3), drawn)
    return prevailing


def _draw_own(customer: _Customer, now: float, drawn: Generator) -> dict[str, Any]:
    """A payment by the customer."""
    place = int(np.searchsorted(customer.tastes, drawn.random()))
    merchant = list(MERCHANTS)[min(place, len(MERCHANTS) - 1)]
    amount = customer.level * MERCHANTS[merchant][1] * float(np.exp(drawn.normal(0.0, 0.6)))
    if now > customer.is_away_until and drawn.random() < 0.01:
        customer.away = _pick(COUNTRIES, tuple([1 / len(COUNTRIES)] * len(COUNTRIES)), drawn)
        customer.is_away_until = now + float(drawn.uniform(3.0, 14.0))
    is_away = now <= customer.is_away_until
    phones = min(0.1 + now / 600.0, 0.5)  # more and more pay by phone
    device = "phone" if drawn.random() < phones else customer.device
    is_new = drawn.random() < 0.04
    if is_new:
        device = _pick(DEVICES, SHARE_OF_DEVICES, drawn)
    changed = drawn.exponential(2.0) if drawn.random() < 0.02 else drawn.uniform(5.0, 400.0)
    return {
        "amount": amount,
        "merchant": merchant,
        "country": customer.away if is_away else customer.home,
        "device": device,
        "is_known_device": not is_new,
        "days_since_password": changed,
    }


def _draw_fraud(scheme: str, customer: _Customer, drawn: Generator) -> dict[str, Any]:
    """A payment by somebody else with the customer's card."""
    noise = float(np.exp(drawn.normal(0.0, 0.5)))
    changed = drawn.uniform(5.0, 400.0)
    country, is_known = customer.home, False
    if scheme == "testing":
        merchant = _pick(("digital", "games", "gift cards"), (0.5, 0.35, 0.15), drawn)
        amount, device = 14.0 * noise, "browser"
        country = _pick((customer.home, "us", "br", "ng"), (0.4, 0.3, 0.15, 0.15), drawn)
    elif scheme == "electronics":
        merchant = _pick(("electronics", "gift cards", "clothes"), (0.6, 0.25, 0.15), drawn)
        amount = 320.0 * noise
        device = _pick(("browser", "tablet", "phone"), (0.5, 0.2, 0.3), drawn)
    elif scheme == "abroad":
        merchant = _pick(("cash", "travel", "fuel"), (0.6, 0.25, 0.15), drawn)
        amount, device, is_known = 240.0 * noise, "chip", True
        country = _pick(("th", "br", "tr", "us", "ng"), (0.3, 0.25, 0.2, 0.15, 0.1), drawn)
    else:
        merchant = _pick(
            ("gift cards", "digital", "clothes", "travel"), (0.4, 0.2, 0.2, 0.2), drawn
        )
        amount = customer.level * 3.0 * noise
        device, changed = _pick(("phone", "browser"), (0.6, 0.4), drawn), drawn.exponential(1.5)
    if not is_known and drawn.random() < 0.15:  # the device is imitated
        is_known = True
    return {
        "amount": amount,
        "merchant": merchant,
        "country": country,
        "device": device,
        "is_known_device": is_known,
        "days_since_password": changed,
    }


def _finish(
    paid: dict[str, Any],
    customer: _Customer,
    scheme: str,
    now: float,
    hour: float,
    dearer: float,
    drawn: Generator,
) -> Payment:
    """The payment beside the customer's habits, which it moves, and when its label comes."""
    amount = round(max(float(paid["amount"]) * dearer, 0.5), 2)
    since_last = min(now - customer.last, 60.0)
    customer.num_lately *= 0.5 ** (4.0 * max(since_last, 0.0))
    x = {
        **paid,
        "amount": amount,
        "hour": round(hour, 3),
        "weekday": ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[int(now) % 7],
        "amount_over_usual": round(amount / customer.usual, 4),
        "is_home": paid["country"] == customer.home,
        "days_since_last": round(since_last, 4),
        "payments_lately": round(customer.num_lately, 4),
        "years_customer": round(customer.since + now / 365.0, 3),
        "days_since_password": round(float(paid["days_since_password"]), 3),
    }
    customer.num_lately += 1.0
    customer.last = now
    customer.usual += 0.05 * (amount - customer.usual)
    days = (customer.statement - now) % DAYS_OF_STATEMENT
    days += drawn.uniform(2.0, 9.0) if scheme else 0.0
    is_silent = drawn.random() < (UNREPORTED if scheme else UNSETTLED)
    told_after = None if is_silent else max(math.ceil(days * NUM_PER_DAY), 1)
    return Payment(x, bool(scheme), amount, told_after, scheme)
