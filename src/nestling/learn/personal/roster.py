"""The persons of a learner by name; those who are idle keep nothing but their state."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from nestling.core.arguments import check_whole, name_kind
from nestling.core.errors import SettingError, suggest
from nestling.core.locks import RemadeLock
from nestling.learn.personal.personal_learner import PersonalLearner
from nestling.learn.personal.spine import Spine
from nestling.learn.training import Training

MAX_BYTES = 1_000_000
# So many who were used last keep what they have solved.
NUM_AWAKE = 8


class Roster:
    """Persons by name, made when first asked for.

    Args:
        training: of the learner whose persons they are.
        lock: of that learner.
    """

    def __init__(self, training: Training, lock: RemadeLock) -> None:
        self._training = training
        self._common_lock = lock
        self._lock = RemadeLock()
        self._spine: Spine | None = None
        self._persons: dict[str, PersonalLearner] = {}
        # By when they were used last, the latest at the end.
        self._awake: OrderedDict[str, None] = OrderedDict()

    @property
    def names(self) -> list[str]:
        """Of all persons, in the order in which they came."""
        with self._lock:
            return list(self._persons)

    def find(self, name: str, *, shares: bool, max_bytes: int) -> PersonalLearner:
        """The person of that name, made if there is none yet; see `Learner.personal`."""
        if not isinstance(name, str) or not name:
            shown = "''" if name == "" else name_kind(name)
            raise SettingError(f"a person's name is {shown}; a text works, such as 'anna'")
        check_whole("max_bytes", max_bytes, 1, "a number of bytes works, such as 1_000_000")
        with self._lock:
            person = self._persons.get(name)
            if person is None:
                self._spine = self._spine or Spine(self._training, self._common_lock)
                person = PersonalLearner(
                    name, self._spine, shares=shares, max_bytes=max_bytes, note_use=self.note_use
                )
                self._persons[name] = person
        if shares and not person.shares:
            raise SettingError(f"person {name!r} does not share yet; set its shares to True first")
        if max_bytes not in (MAX_BYTES, person.max_bytes):
            raise SettingError(
                f"max_bytes={max_bytes:,}, but person {name!r} has {person.max_bytes:,} already"
            )
        return person

    def forget(self, name: str) -> None:
        """Forget a person and all that it learned; SettingError if there is none of that name."""
        with self._lock:
            if name not in self._persons:
                raise SettingError(f"no person {name!r}; {suggest(name, self._persons)}")
            del self._persons[name]
            self._awake.pop(name, None)

    def read(self, name: str) -> PersonalLearner:
        """The person of that name; SettingError if there is none."""
        with self._lock:
            if name not in self._persons:
                raise SettingError(f"no person {name!r}; {suggest(name, self._persons)}")
            return self._persons[name]

    def note_use(self, name: str) -> None:
        """Somebody was used: whoever was used longest ago goes to rest.

        This thread holds no person's lock here, so that two who put each other to rest cannot wait
        for one another.
        """
        with self._lock:
            if name not in self._persons:
                return  # it was forgotten
            self._awake[name] = None
            self._awake.move_to_end(name)
            idle = []
            while len(self._awake) > NUM_AWAKE:
                idle.append(self._persons[self._awake.popitem(last=False)[0]])
        for one in idle:
            one.rest()

    def look_again(self) -> None:
        """After the learner was restored."""
        if self._spine is not None:
            self._spine.look_again()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """While nobody learns: all persons' locks, taken before the learner's as they do."""
        with ExitStack() as stack:
            stack.enter_context(self._lock)
            for person in self._persons.values():
                stack.enter_context(person.standing_still())
            yield
