"""One process of a dump, anywhere in the cluster: it runs the one path of every dump, on units that it is given.

The dump runs in a thread, while a scheduler's calls start it, fetch what it tells and give it units. It works in the
folder in which the command was given, which has to be there under that name, and so have its files: nothing is copied
between machines.
"""

import os
import socket
import threading
import traceback
from collections.abc import Mapping

from kdcache.disk import what_to_do
from kdcache.dump.schedulers.events import Ended, Event, Said, Started
from kdcache.dump.schedulers.given import Given, Mailbox
from kdcache.errors import ConfigError, KdcacheError
from kdcache.progress import listen

__all__ = ["Worker", "as_told"]


class Worker:
    """Says `Started`, `Begun` when its teacher is loaded, then `Wants` and `Committed` in turn, and `Ended`.

    Args:
        number: Which one it is, from 0, of `size`.
        size: How many there may be.
        config: The settings, as JSON.
        folder: Where the command was given.
        environment: Variables of the command's that decide what is loaded, and how.
        profile: As run_dump's.
    """

    def __init__(
        self, number: int, size: int, config: str, folder: str, environment: Mapping[str, str], profile: str | None
    ) -> None:
        os.environ.update(environment)
        self.number, self.size, self.config, self.folder, self.profile = number, size, config, folder, profile
        self.mailbox = Mailbox()
        self.given = Given(f"worker {number}", self.mailbox)
        self._thread: threading.Thread | None = None

    def start(self, force: bool) -> list[Event]:
        """Begin; the first events. A worker that had begun and was taken for dead ends itself, to be started anew."""
        if self._thread is not None:
            os._exit(1)
        self._thread = threading.Thread(target=self._run, args=(force,), name="dump", daemon=True)
        self.mailbox.tell(Started(f"process {os.getpid()} on {socket.gethostname()}"))
        self._thread.start()
        return self.mailbox.fetch()

    def events(self) -> list[Event]:
        """What was told since the last call; waits for something."""
        return self.mailbox.fetch()

    def give(self, unit: int) -> None:
        self.given.give(unit)

    def finish(self) -> None:
        """Every unit stands: finish the cache."""
        self.given.finish()

    def leave(self) -> None:
        """Take no more units, and end; another worker finishes the cache."""
        self.given.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self, force: bool) -> None:
        listen(lambda text, result: self.mailbox.tell(Said(text, result)))
        try:
            self._dump(force)
        except (KdcacheError, OSError) as error:
            self.mailbox.tell(as_told(error))
        except BaseException:
            self.mailbox.tell(Ended(trace=traceback.format_exc()))
        else:
            self.mailbox.tell(Ended())

    def _dump(self, force: bool) -> None:
        try:
            os.chdir(self.folder)
        except OSError:
            raise ConfigError(
                f"there is no folder {self.folder} on {socket.gethostname()}, a machine of the cluster; expected the "
                "one in which this command was given, with its files, under the same name on every machine"
            ) from None
        from kdcache.dump.run import run_dump
        from kdcache.dump.settings import DumpConfig
        from kdcache.launcher import World

        config = DumpConfig.model_validate_json(self.config)
        # The devices that it sees are its own: it is the first rank of a machine of its own.
        world = World(self.number, self.size, 0)
        run_dump(config, world, force=force, profile=self.profile, units=self.given)


def as_told(error: KdcacheError | OSError) -> Ended:
    """An error as it travels: its line and exit status, not what it holds besides."""
    if isinstance(error, OSError):
        words = what_to_do(error)
        return Ended(trace=traceback.format_exc()) if words is None else Ended(KdcacheError(words))
    kind = next(one for one in type(error).__mro__ if one is KdcacheError or "__init__" not in vars(one))
    plain = kind(str(error))
    assert isinstance(plain, KdcacheError)
    plain.exit_status = error.exit_status
    return Ended(plain)
