"""Shutdown of an event loop that serves a test."""

import asyncio


async def end_other_tasks() -> None:
    """Cancel all tasks of this loop except the current one, and wait until they have closed their resources."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # let closed transports finish before the loop ends
