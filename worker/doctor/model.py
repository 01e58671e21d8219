"""Checks of the model, its device and its roots, and what a worker would do."""

import os

from nightread.inference.session import explain_missing_gpu
from nightread.scan.object_address import is_address, spell_address
from nightread.settings import Device, check_roots
from worker.doctor.finding import Finding, warn_if
from worker.doctor.machine import Machine


def check_model(machine: Machine) -> Finding:
    """Open the model of a new run on its device, and reproduce its scores."""
    choice, process, settings = machine.choice, machine.process, machine.settings
    card = choice.bundle.card
    said = f"{card.reference} on {process.provider} (device {settings.device.value}), {card.digest[:12]}; {choice.why}"
    return warn_if(not settings.gate, said, "the input gate is off (NIGHTREAD_GATE=false): every picture gets a score")


def check_gpu(machine: Machine) -> Finding:
    """Say whether a GPU is used, and why not."""
    provider = machine.choice and machine.process.provider
    if provider == "CUDAExecutionProvider":
        return Finding("CUDA is active")
    if machine.settings.device is Device.CPU:
        return Finding("not used: the device is set to cpu")
    why = explain_missing_gpu()
    found = why or "a GPU is there, but CUDA does not load"
    return warn_if(not why.startswith("no GPU"), found, "`uv sync --extra cuda` installs its libraries; see the log")


def check_scan_roots(machine: Machine) -> Finding:
    """Check that the roots are folders that this user may read."""
    settings = machine.settings
    check_roots(settings)
    if not settings.scan_roots:
        return warn_if(
            settings.has_shared_broker,
            "NIGHTREAD_SCAN_ROOTS is not set",
            "jobs may read any folder; set it in production",
        )
    folders = [root for root in settings.scan_roots if not is_address(root)]
    unread = [str(root) for root in folders if not os.access(root, os.R_OK | os.X_OK)]
    found = ", ".join(map(spell_address, settings.scan_roots))
    return warn_if(unread, found, f"this user may not read {', '.join(unread)}")


def describe_worker(machine: Machine) -> Finding:
    """Say what a worker of this host would do."""
    settings, process = machine.settings, machine.process
    device = process.provider.removesuffix("ExecutionProvider") or "no device"
    work = f"{process.threads} threads, batches of {settings.batch_size} on {device}"
    if not settings.has_shared_broker:
        return Finding(f"none runs without a shared broker; `score` would use {work}")
    below = ", ".join(map(spell_address, settings.scan_roots)) or "any folder that its run names"
    return Finding(f"would take jobs of up to {settings.job_size} scans and read {below}: {work}")
