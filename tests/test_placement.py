import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

import genmodels
from genmodels.errors import InputError
from genmodels.placement.choose import placement
from genmodels.placement.local import LocalPlacement
from genmodels.placement.ray import RayPlacement
from genmodels.streams import Key

ROOT = Path(genmodels.__file__).resolve().parents[1]
LONG = 200_003  # elements: long enough that torch would split a sum among threads


# --- shards of work ---


def advance(state, weights, key):
    """A pure shard: its own stream, and a sum whose bits depend on the number of threads."""
    noise = torch.randn(LONG, generator=key.torch())
    total = (noise * 1.1 + state.sum()).sum()
    return torch.tanh(state @ weights + total), float(total)


def careless(state, weights, key):
    """The same, but for drawing from the global generator."""
    total = torch.randn(LONG).sum()
    return torch.tanh(state @ weights + total), float(total)


def all_cores(state, weights, key):
    """The same as `advance`, but for taking the number of threads into its own hands."""
    torch.set_num_threads(5)
    return advance(state, weights, key)


def threads(state, *others):
    return state, torch.get_num_threads()


def one_more(state):
    return state + 1, None


def begin(state, path):
    path.touch()
    return state, None


def refuse(state):
    raise InputError("anneal: file.rud: line 3 has no weight: add one")


def overflow(state):
    raise FloatingPointError("3 energies are not finite")


def die_once(state, flag, weights, key):
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(state, weights, key)


def die(state, shard=0):
    os.kill(os.getpid(), signal.SIGKILL)


def await_file(state, path):
    while not path.exists():
        time.sleep(0.01)
    return state, "awaited"


def token(state):
    return state, os.environ["RAY_AUTH_TOKEN"]


def digest(place, fn=advance, n_shards=3, n_rounds=2):
    """Advance shards by rounds, each shard as soon as it is free; hash all states and results in order."""
    weights = place.put(torch.linspace(-1, 1, 49).reshape(7, 7))
    rounds = [0] * n_shards
    handles = [
        place.submit(fn, place.put(torch.full((4, 7), 0.1 * s)), weights, Key(5, "toy", s))
        for s in range(n_shards)
    ]
    results = {}
    while min(rounds) < n_rounds:
        active = [s for s in range(n_shards) if rounds[s] < n_rounds]
        shard = active[place.wait([handles[s][1] for s in active])[0]]
        results[shard, rounds[shard]] = place.fetch(handles[shard][1])
        rounds[shard] += 1
        if rounds[shard] < n_rounds:
            handles[shard] = place.submit(fn, handles[shard][0], weights, Key(5, "toy", shard, rounds[shard]))
    states = [place.fetch(handle).numpy().tobytes() for handle, _ in handles]
    return hashlib.sha256(b"".join(states) + json.dumps(sorted(results.items())).encode()).hexdigest()


# --- what this process and its children do to the machine ---


def family(pid):
    """Return {pid: command} of `pid` and of all its descendants."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            head, _, tail = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        names[int(entry.name)] = head.partition("(")[2]
        parents[int(entry.name)] = int(tail.split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: names[child] for child in found if child in names}


def listeners(pid):
    """Return the addresses on which `pid` or a descendant listens, as /proc/net/tcp writes them."""
    inodes = set()
    for member in family(pid):
        for link in Path(f"/proc/{member}/fd").glob("*"):
            try:
                inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                addresses.append(local.partition(":")[0])
    return addresses


LOOPBACK = {
    "0100007F",  # 127.0.0.1, little endian
    "0000000000000000FFFF00000100007F",  # the same, mapped into IPv6
    "00000000000000000000000001000000",  # ::1
}


def report(path, n_workers):
    """Run in a process of its own: what it computed, and where it listened meanwhile."""
    with placement(default=7, n_workers=n_workers) as place:
        found = {"digest": digest(place), "n_workers": place.n_workers, "listeners": listeners(os.getpid())}
        if n_workers:
            path.with_suffix(".flag").unlink(missing_ok=True)
            place.fetch(
                place.submit(
                    die_once, torch.zeros(4, 7), path.with_suffix(".flag"), torch.eye(7), Key(1, "x")
                )[0]
            )
            place.submit(refuse, 1)  # a failure that nobody asks for
    path.write_text(json.dumps(found))


def hang(path):
    """Run in a process of its own: tell its family, then wait for a shard that never ends."""
    with placement(n_workers=1) as place:
        _, result = place.submit(await_file, 0, path.with_suffix(".never"))
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(sorted(family(os.getpid()))))
        temporary.rename(path)
        place.fetch(result)


def outcome(call, folder, *, wrapper=(), cwd=ROOT, **environment):
    """Run `call` of this file in a fresh Python; return the finished process."""
    paths = [str(ROOT), str(Path(__file__).parent)]
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = {paths}; import test_placement as t; t.{call}",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GENMODELS_"))}
    return subprocess.run(
        [*wrapper, *command],
        cwd=cwd,
        env=clean | {"TMPDIR": str(folder)} | environment,
        capture_output=True,
        text=True,
    )


def gone(pids, folder):
    """Wait until none of `pids` runs and `folder` is empty; say what is left after half a minute."""
    deadline = time.monotonic() + 30
    while True:
        running = [
            pid
            for pid in pids
            if (stat := Path(f"/proc/{pid}/stat")).exists() and ") Z " not in stat.read_text()
        ]
        left = running + sorted(path.name for path in folder.iterdir())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


@pytest.fixture
def short():
    """A temporary folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def two():
    place = RayPlacement.local(2)
    yield place
    place.close()


@pytest.fixture
def opened(monkeypatch):
    """Record what would be opened instead of opening it."""
    calls = []

    class Recorded(LocalPlacement):
        def close(self):
            calls.append("closed")

    def record(name):
        return lambda where, gpus: calls.append((name, where) + ((gpus,) if gpus else ())) or Recorded()

    monkeypatch.setattr(RayPlacement, "local", record("local"))
    monkeypatch.setattr(RayPlacement, "connect", record("connect"))
    monkeypatch.delenv("GENMODELS_GPUS", raising=False)
    monkeypatch.delenv("GENMODELS_WORKERS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


# --- which placement ---


@pytest.mark.parametrize(
    ("argument", "workers", "address", "default", "expected"),
    [
        (None, None, None, 0, []),
        (None, None, None, 3, [("local", 3)]),
        (None, None, "head:6379", 0, [("connect", "head:6379")]),
        (None, None, "", 3, [("local", 3)]),
        (None, "0", "head:6379", 3, []),
        (None, "2", "head:6379", 3, [("local", 2)]),
        (None, "", "head:6379", 3, [("connect", "head:6379")]),
        (0, "2", "head:6379", 3, []),
        (4, "2", "head:6379", 3, [("local", 4)]),
        (4, "abc", None, 3, [("local", 4)]),
    ],
)
def test_the_argument_wins_over_the_environment_over_the_default(
    opened, monkeypatch, argument, workers, address, default, expected
):
    if workers is not None:
        monkeypatch.setenv("GENMODELS_WORKERS", workers)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with placement(default, argument) as place:
        assert opened == expected
        assert (type(place) is LocalPlacement) == (not expected)
    assert opened == expected + ["closed"] * len(expected)


@pytest.mark.parametrize(("share", "expected"), [("", ()), ("0", ()), ("0.25", (0.25,)), ("2", (2.0,))])
def test_tasks_on_ray_have_the_share_of_a_gpu_that_is_asked_for(opened, monkeypatch, share, expected):
    monkeypatch.setenv("GENMODELS_GPUS", share)
    with placement(3), placement(0):
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with placement():
        pass
    assert opened[0] == ("local", 3, *expected)
    assert ("connect", "head:6379", *expected) in opened


def test_this_process_works_on_the_threads_asked_for_and_on_all_its_cores_by_default(opened):
    with placement(default=0) as place:
        assert place.n_threads == len(os.sched_getaffinity(0))
    with placement(default=3, n_workers=0, n_threads=1) as place:
        assert place.n_threads == 1
        assert place.submit(threads, "at once") == ("at once", 1)
    assert opened == []


def test_by_default_one_worker_a_core_closed_even_after_an_error(opened):
    with pytest.raises(KeyError), placement():
        raise KeyError
    assert opened == [("local", len(os.sched_getaffinity(0))), "closed"]


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", " 2", "²"])
def test_a_bad_number_of_workers_is_named(opened, monkeypatch, value):
    monkeypatch.setenv("GENMODELS_WORKERS", value)
    with (
        pytest.raises(InputError, match=f"^GENMODELS_WORKERS is '{value}', expected a whole number.*$"),
        placement(),
    ):
        pass
    assert opened == []


def test_a_bad_argument_is_named(opened):
    with pytest.raises(InputError, match="^--workers is '-1', expected a whole number.*$"), placement(0, -1):
        pass


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", ":6379", "local"])
def test_a_cluster_that_is_not_there_is_named(monkeypatch, address):
    monkeypatch.delenv("GENMODELS_WORKERS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"^RAY_ADDRESS is '{address}': no Ray cluster .*$"), placement():
        pass


# --- in this process ---


def test_in_process_shards_have_one_thread_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        place = LocalPlacement()
        assert place.submit(threads, 1) == (1, 1)
        with pytest.raises(FloatingPointError, match="^3 energies are not finite$"):
            place.submit(overflow, 1)
        assert torch.get_num_threads() == 3
        assert place.wait("abc") == [0, 1, 2]
        assert place.wait([]) == []
    finally:
        torch.set_num_threads(before)


def test_threads_of_this_process_give_the_same_bytes():
    expected = digest(LocalPlacement())
    for n_threads in (2, 3):
        place = LocalPlacement(n_threads)
        assert digest(place, n_shards=5, n_rounds=4) == digest(LocalPlacement(), n_shards=5, n_rounds=4)
        assert digest(place) == expected
        assert digest(place, careless) != expected
        place.close()


def test_shards_on_threads_have_one_thread_each_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        place = LocalPlacement(2)
        digest(place, all_cores)
        assert [place.fetch(place.submit(threads, 0)[1]) for _ in range(6)] == [1] * 6
        place.close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_threads_work_at_the_same_time_and_tell_who_is_done_first(tmp_path):
    place, path = LocalPlacement(2), tmp_path / "go"
    late, soon = place.submit(await_file, 1, path), place.submit(threads, 2)
    assert place.wait([late[1], soon[1]]) == [1]
    assert 1 in place.wait([late[1], "a value"])
    path.touch()
    assert place.wait([late[1]]) == [0]
    assert [place.fetch(handle) for handle in late] == [1, "awaited"]
    assert place.fetch("a value") == "a value"
    place.close()


@pytest.mark.parametrize(("fn", "error"), [(refuse, InputError), (overflow, FloatingPointError)])
def test_an_error_on_a_thread_surfaces_as_itself_also_from_what_depends_on_it(fn, error):
    place = LocalPlacement(2)
    state, result = place.submit(fn, 1)
    later, _ = place.submit(threads, state)
    for handle in (state, result, later):
        assert place.wait([handle]) == [0]
    for handle in (state, result, later):
        with pytest.raises(error, match="energies are not finite|add one"):
            place.fetch(handle)
    place.close()


def test_many_shards_that_wait_for_each_other_do_not_lock_each_other_out():
    place = LocalPlacement(2)
    handles = [place.put(0)]
    for _ in range(50):
        handles.append(place.submit(one_more, handles[-1])[0])
    assert place.fetch(handles[-1]) == 50
    place.close()


def test_closing_forgets_shards_that_have_not_begun(tmp_path):
    place, go, begun = LocalPlacement(2), tmp_path / "go", tmp_path / "begun"
    running = [place.submit(await_file, 0, go)[1] for _ in range(2)]
    waiting = place.submit(begin, 0, begun)[0]
    closing = threading.Thread(target=place.close)
    closing.start()
    while not waiting.shard.cancelled():
        time.sleep(0.01)
    go.touch()
    closing.join()
    assert [place.fetch(handle) for handle in running] == ["awaited"] * 2
    assert not begun.exists()


# --- on Ray ---


def test_same_bytes_in_process_with_one_worker_and_with_two(two, short, tmp_path):
    """The second Ray, with one worker, runs beside the first; both are silent and tidy."""
    expected = digest(LocalPlacement())
    assert digest(two) == expected
    assert digest(two, careless) != expected
    for n_workers in (0, 1):
        path = tmp_path / f"{n_workers}.json"
        done = outcome(f"report(t.Path({str(path)!r}), {n_workers})", short)
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
        found = json.loads(path.read_text())
        assert found["digest"] == expected
        assert found["n_workers"] == n_workers
        assert set(found["listeners"]) <= LOOPBACK
        assert bool(found["listeners"]) == bool(n_workers)
        assert list(short.iterdir()) == []
    assert digest(two) == expected


def test_the_number_of_threads_would_change_the_bytes():
    """Without the single thread of a shard the comparison above would have to fail."""
    if os.cpu_count() == 1:
        pytest.skip("one core: torch has no second thread to add in another order")
    assert digest(LocalPlacement(), all_cores) != digest(LocalPlacement())


def test_a_worker_that_is_used_again_has_one_thread(two):
    for _ in range(4):
        digest(two, all_cores)
        assert [two.fetch(two.submit(threads, 0)[1]) for _ in range(2)] == [1, 1]


def test_workers_listen_on_loopback_only(two):
    found = listeners(os.getpid())
    assert len(found) > 3  # the head's services, and each worker's
    assert set(found) <= LOOPBACK


def test_wait_tells_who_is_done_first(two, tmp_path):
    path = tmp_path / "go"
    handles = [two.submit(await_file, 1, path)[1], two.submit(threads, 2)[1]]
    assert two.wait(handles) == [1]
    path.touch()
    assert two.wait(handles[:1]) == [0]
    assert sorted(two.wait(handles)) == [0, 1]
    assert two.wait([]) == []
    assert [two.fetch(handle) for handle in handles] == ["awaited", 1]


def test_long_chains_of_tasks_start_anew(two):
    state = two.put(torch.zeros(40_000))  # of a size that Ray would make again
    lengths = []
    for _ in range(250):
        state, done = two.submit(one_more, state)
        two.fetch(done)
        lengths.append(state.length)
    assert lengths == [*range(1, 101), *range(1, 101), *range(1, 51)]
    assert len(state.held) == 1
    # What came from elsewhere can be made again as long as that can.
    both, done = two.submit(threads, two.put(torch.ones(2)), state)
    assert (both.held, two.fetch(done)) == (state.held, 1)
    assert float(two.fetch(state).mean()) == 250.0


def test_a_task_for_which_there_is_no_room_is_held_back(two, tmp_path, monkeypatch):
    monkeypatch.setattr(two, "room", 4)
    path, handles = tmp_path / "go", []

    def submit():
        for _ in range(6):
            handles.append(two.submit(await_file, 1, path)[1])

    thread = threading.Thread(target=submit)
    thread.start()
    while len(handles) < 4:
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(1)
    assert thread.is_alive()
    assert len(handles) == 4
    path.touch()
    thread.join(60)
    assert [two.fetch(handle) for handle in handles] == ["awaited"] * 6


@pytest.mark.parametrize(
    ("fn", "error"),
    [
        (refuse, InputError("anneal: file.rud: line 3 has no weight: add one")),
        (overflow, FloatingPointError("3 energies are not finite")),
    ],
)
def test_an_error_in_a_shard_surfaces_as_itself_also_from_what_depends_on_it(two, fn, error):
    state, result = two.submit(fn, 1)
    later, _ = two.submit(threads, state)
    for handle in (state, result, later):
        assert two.wait([handle]) == [0]
    for handle in (state, result, later):
        with pytest.raises(type(error)) as raised:
            two.fetch(handle)
        assert type(raised.value) is type(error)
        assert str(raised.value) == str(error)


def test_a_killed_workers_shard_is_done_again_with_the_same_bytes(two, tmp_path, capfd):
    arguments = (torch.linspace(0, 1, 49).reshape(7, 7), Key(2, "killed"))
    state = torch.full((4, 7), 0.3)
    flag = tmp_path / "died"
    again = two.submit(die_once, two.put(state), flag, *arguments)
    values = [two.fetch(handle) for handle in again]
    assert flag.exists()
    expected = LocalPlacement().submit(advance, state, *arguments)
    assert values[0].numpy().tobytes() == expected[0].numpy().tobytes()
    assert values[1] == expected[1]
    assert capfd.readouterr() == ("", "")
    assert two.n_failures == 1


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_is_given_up_in_one_line(two):
    _, handle = two.submit(die, 1, 7)
    with pytest.raises(RuntimeError, match=r"^.*, shard 7: its worker died 4 times in a row: .*$"):
        two.fetch(handle)


@pytest.mark.slow
def test_another_process_joins_and_leaves_a_running_ray(two, short, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    secret = two.fetch(two.submit(token, 0)[1])
    call = "joined(t.Path({!r}))"
    settings = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = outcome(call.format(str(tmp_path / "right")), short, **settings, RAY_AUTH_TOKEN=secret)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert json.loads((tmp_path / "right").read_text()) == [2, digest(LocalPlacement())]
    assert two.fetch(two.submit(threads, 2)[0]) == 2


def joined(path):
    with placement(default=0) as place:
        path.write_text(json.dumps([place.n_workers, digest(place)]))


@pytest.mark.slow
def test_who_has_not_the_token_is_turned_away(two, short, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    settings = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = outcome(f"joined(t.Path({str(tmp_path / 'wrong')!r}))", short, **settings, RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        .split("\n")[-1]
        .startswith(f"genmodels.errors.InputError: RAY_ADDRESS is '{address}'")
    )
    assert not (tmp_path / "wrong").exists()


def test_workers_import_the_checkout_of_the_driver(tmp_path):
    """Code lies elsewhere, a decoy in the current folder; the temporary folder has a long name."""
    checkout, decoy, deep = (tmp_path / name for name in ("checkout", "decoy", "x" * 60))
    shutil.copytree(ROOT / "genmodels", checkout / "genmodels", ignore=shutil.ignore_patterns("__pycache__"))
    (decoy / "genmodels").mkdir(parents=True)
    (decoy / "genmodels" / "__init__.py").write_text("raise ImportError('the decoy')")
    deep.mkdir()
    (checkout / "shards.py").write_text(
        "import genmodels.placement.local as module\ndef where(state):\n    return state, module.__file__\n"
    )
    (checkout / "run.py").write_text(
        "from genmodels.placement.choose import placement\nfrom shards import where\n"
        "with placement(n_workers=1) as place:\n    print(place.fetch(place.submit(where, 0)[1]))\n"
    )
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(checkout / "run.py")]
    done = subprocess.run(
        command, cwd=decoy, env=clean | {"TMPDIR": str(deep)}, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == (str(checkout / "genmodels/placement/local.py"), "")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_stopped_leaves_nothing_behind(short, tmp_path, how):
    path = tmp_path / "family"
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]}; import test_placement as t\n"
        f"t.hang(t.Path({str(path)!r}))"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(short)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not path.exists():
        assert driver.poll() is None
        time.sleep(0.05)
    members = json.loads(path.read_text())
    assert len(members) > 5
    assert list(short.iterdir())
    if how == signal.SIGINT:
        os.killpg(driver.pid, how)  # as the terminal does
    else:
        driver.send_signal(how)
    _, errors = driver.communicate()
    assert driver.returncode == -how
    assert gone(members, short) == []
    assert (errors.split()[-1:] == [b"KeyboardInterrupt"]) if how == signal.SIGINT else (errors == b"")


@pytest.mark.slow
def test_with_loopback_and_little_shared_memory_only(short, tmp_path):
    """As in a container without a network whose /dev/shm is small."""
    wrapper = ["unshare", "-rnm", "sh", "-c"]
    inside = "ip link set lo up && mount -t tmpfs -o size=16m tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*wrapper, inside], capture_output=True).returncode:
        pytest.skip("unshare -rnm is not permitted here")
    path = tmp_path / "found.json"
    done = outcome(
        f"report(t.Path({str(path)!r}), 2)", short, wrapper=[*wrapper, f'{inside} && exec "$@"', "sh"]
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert json.loads(path.read_text())["digest"] == digest(LocalPlacement())
