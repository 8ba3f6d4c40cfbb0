# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""The one family of errors. A message says what was asked, what was found, what to do next."""

from __future__ import annotations


class KeyslotError(Exception):
    """Base of all errors of the collection; its text is the sentence that the user reads.

    `details` are further fields for the failure's result.
    """

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details


class OptionError(KeyslotError):
    """An option, alone or against the cluster, makes no sense. Nothing was changed."""


class Ambiguous(OptionError):
    """A name that fits several nodes."""


class Refused(KeyslotError):
    """The cluster is not in a state in which this is safe. Nothing was changed."""


class Unreachable(KeyslotError):
    """No connection could be made, or the login was not accepted. Nothing was sent."""


class LostConnection(KeyslotError):
    """The connection ended after a command was sent: it may or may not have been carried out."""


class NotConverged(KeyslotError):
    """The nodes did not come to tell the same story in time."""


class Stopped(KeyslotError):
    """A run had to stop half-way; what is done stays done, and the next run goes on from there."""


class NotThisWay(KeyslotError):
    """One way to move slots fails for a reason that will not pass; another one may do it."""


class ReplyError(KeyslotError):
    """A server answered with an error. `code` is its first word (`ERR`, `NOPERM`, `BUSYKEY`…).

    `grant` is the ACL rule that `user` lacks, empty if that is not what is wrong.
    """

    def __init__(self, text: str, address: str = "", command: str = "", user: str = "") -> None:
        self.text = text
        self.address = address
        self.command = command
        self.user = user
        self.code = text.split(" ", 1)[0]
        # A denied EXEC answers EXECABORT, and only then why.
        denied = self.code == "NOPERM" or (self.code == "EXECABORT" and "NOPERM" in text)
        self.grant = self._missing_rule() if denied and command else ""
        message = f"{address} answered '{text}' to {command}" if address else text
        if self.grant:
            message += f": grant the user '{user}' {self.grant}"
        super().__init__(message)

    def _missing_rule(self) -> str:
        if "access" in self.text and "key" in self.text:
            return "all keys (~*)"
        if "access" in self.text and "database" in self.text:
            return "alldbs"
        return f"+{self.command.lower().replace(' ', '|')}"
