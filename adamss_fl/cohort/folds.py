"""Dividing patients into folds for cross-validation: stratified by event and centre, or one fold a centre."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adamss_fl.errors import InputError


@dataclass(frozen=True)
class Member:
    """What folds are made by.

    id : the patient's identifier, unique over all sites; event : 1 or 0.
    centre : where the patient was treated; None where the cohort has a centre for others and not for this one.
    """

    id: str
    site: str
    event: int
    centre: str | None


@dataclass(frozen=True)
class Fold:
    """One fold: its name for people, and the identifiers of its held-out patients, sorted."""

    label: str
    ids: tuple[str, ...]


def members_of(patients: Sequence[tuple[str, str, int, Mapping[str, str | float | None]]]) -> tuple[Member, ...]:
    """Members from (id, site, event, clinical) of each patient, in their order.

    A patient's centre is the clinical column ``centre`` where any patient of the site has one, else the site. Equal
    names at two sites are one centre, so that no centre can be in a fold's training and held-out part.
    """
    with_centres = {site for _, site, _, clinical in patients if clinical.get("centre") is not None}
    return tuple(
        Member(name, site, event, _text(clinical.get("centre")) if site in with_centres else site)
        for name, site, event, clinical in patients
    )


def stratified_folds(members: Sequence[Member], folds: int, seed: int) -> tuple[Fold, ...]:
    """``folds`` folds, stratified by event and centre.

    Every stratum, the patients with an event and all patients are each spread over the folds to within one patient. A
    patient's fold depends on the seed, the identifiers and strata of all members, never on their order.

    Raises InputError for fewer than two folds, an identifier given twice, or fewer events than folds (a fold without an
    event has no C-index).
    """
    _refuse_duplicates(members)
    if folds < 2:
        raise InputError(f"folds: {folds} asked for; ask for 2 or more")
    events = sum(member.event for member in members)
    if events < folds:
        raise InputError(
            f"folds: {folds} asked for and {events} of the {len(members)} patients to divide have an event, so that "
            f"a fold would have none; ask for {events} or fewer"
            if events >= 2
            else f"folds: {events} of the {len(members)} patients to divide have an event; cross-validation needs 2"
        )
    # Dealt in turn from one stratum to the next, patients with an event first: what follows on each other is even too.
    order = sorted(members, key=lambda m: (-m.event, m.centre is None, m.centre or m.site, _draw(seed, m.id), m.id))
    return tuple(
        Fold(f"fold {number + 1}", tuple(sorted(member.id for member in order[number::folds])))
        for number in range(folds)
    )


def centre_folds(members: Sequence[Member]) -> tuple[Fold, ...]:
    """One fold a centre (leave-one-centre-out), in the order of the centres' names.

    Raises InputError where there is one centre only, a patient's centre is not known, a centre has no event, or an
    identifier is given twice.
    """
    _refuse_duplicates(members)
    unknown = sorted(member.id for member in members if member.centre is None)
    if unknown:
        raise InputError(
            f"folds: {len(unknown)} patients have no centre in the clinical table, the first {unknown[0]!r}; "
            "fill it in, or ask for a number of folds"
        )
    centres = sorted({str(member.centre) for member in members})
    if len(centres) < 2:
        named = f"the only centre is {centres[0]!r}" if centres else "there are no patients"
        raise InputError(f"folds: leave-one-centre-out needs two centres and {named}; ask for a number of folds")
    for centre in centres:
        if not any(member.event for member in members if member.centre == centre):
            raise InputError(f"folds: centre {centre!r} has no patient with an event; ask for a number of folds")
    return tuple(
        Fold(f"centre {centre}", tuple(sorted(member.id for member in members if member.centre == centre)))
        for centre in centres
    )


def _refuse_duplicates(members: Sequence[Member]) -> None:
    """Raise InputError where two members have one identifier: the same patient could be in two folds."""
    twice = sorted(name for name, count in Counter(member.id for member in members).items() if count > 1)
    if twice:
        sites = sorted({member.site for member in members if member.id == twice[0]})
        raise InputError(
            f"{len(twice)} identifiers belong to several patients, the first {twice[0]!r} at {', '.join(sites)}; "
            "give the sites' patients distinct identifiers, and keep a patient at one site"
        )


def _draw(seed: int, patient_id: str) -> str:
    """A fixed pseudo-random key of this patient under this seed, independent of the one that chose the test part."""
    return hashlib.sha256(f"folds:{seed}:{patient_id}".encode()).hexdigest()


def _text(value: str | float | None) -> str | None:
    return f"{value:g}" if isinstance(value, float) else value
