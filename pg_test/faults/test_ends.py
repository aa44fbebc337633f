"""Workers end while threads of theirs are in the middle of a look-up: the process goes, and takes nothing with it."""

import threading

from server import PRELOADED

DATABASES = 4
STOPS, MANY = 300, 10_000
LOOKING = "SELECT count(*) FROM webhooks.in_flight WHERE phase = 'connecting'"
PATHS = ("/a", "/b")


def stop(db, worker):
    db.stop_worker()
    db.start_worker()


def terminate(db, worker):
    db.one("SELECT pg_terminate_backend(%s)", worker)
    db.wait_until("SELECT pid FROM webhooks.status", lambda pid: pid not in (None, worker), timeout=30)


def stop_over_and_over(db, count, stopped, troubles):
    """In both ways in turns, each time with look-ups under way."""
    try:
        for number in range(count):
            worker = db.wait_for_worker(timeout=30)
            db.wait_until(LOOKING, len(PATHS), timeout=30)
            (stop, terminate)[number % 2](db, worker)
            stopped.append(worker)
    except BaseException as error:
        troubles.append(error)


def test_no_end_beside_hanging_look_ups_takes_the_server_with_it(
    make_server, make_database, make_receiver, names, long, row
):
    receiver, count = make_receiver(), MANY if long else STOPS
    hosts = [f"hangs{n}.test" for n in range(DATABASES)]
    names.answer(**{host.replace(".", "_"): [["?"]] for host in hosts})
    # For longer than a worker lives.
    server = make_server({**PRELOADED, "webhooks.request_timeout": "5min"}, names.environment())
    databases = [make_database(server=server) for _ in hosts]
    for db, host in zip(databases, hosts, strict=True):
        for path in PATHS:
            db.create_webhook(receiver.url(path, host=host))
        db.emit()
    stopped, troubles = [], []
    threads = [
        threading.Thread(target=stop_over_and_over, args=[db, count // DATABASES, stopped, troubles]) for db in databases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.alarms() == []
    assert troubles == []
    assert len(stopped) == count
    # What waited all the time is there.
    assert receiver.to() == []
    names.answer(**{host.replace(".", "_"): [["127.0.0.1"]] for host in hosts})
    for db in databases:
        stop(db, None)
    requests = receiver.wait(DATABASES * len(PATHS), timeout=30)
    assert server.alarms() == []
    assert len(requests) == DATABASES * len(PATHS)
    row("end of a worker beside hanging look-ups", count, f"{len(requests)} waiting")
