"""Ending an event loop that serves a test."""

import asyncio


async def end_other_tasks() -> None:
    """Cancel all tasks of this loop but the one that asks, and wait until what they close is closed."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # what they have closed is gone before the loop is
