"""`usage-worker` as it is, on the event loop that CHAOS_EVENT_LOOP names."""

from chaos.patching import run_worker

if __name__ == "__main__":
    run_worker()
