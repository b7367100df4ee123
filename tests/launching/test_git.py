"""What git says of a project, and a diff that tells no secrets; on real repositories."""

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from runmanager.launching.git import GitQuery, redacted_diff
from runmanager.launching.redaction import redacted


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Runs git in an empty repository; returns what it printed."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "Ada")
        monkeypatch.setenv(f"{name}_EMAIL", "ada@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setattr("runmanager.launching.git._MAX_SECONDS", 60.0)  # on a busy machine too

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "main")
    git.folder = folder
    return git


def commit(git, **files: str) -> None:
    for name, text in files.items():
        (git.folder / f"{name}.py").write_text(text)
    git("add", "-A")
    git("commit", "-q", "-m", "a step")


def test_the_revision_is_told_and_whether_something_changed_since(repository):
    commit(repository, net="width = 6\n")
    head = repository("rev-parse", "HEAD")
    assert GitQuery(repository.folder).result() == {"revision": head, "branch": "main", "dirty": False}
    (repository.folder / "net.py").write_text("width = 7\n")
    assert GitQuery(repository.folder).result() == {"revision": head, "branch": "main", "dirty": True}
    repository("add", "-A")
    query = GitQuery(repository.folder)
    assert query.result()["dirty"]
    assert query.result() is query.result()


def test_files_that_git_does_not_keep_make_nothing_dirty(repository):
    commit(repository, net="width = 6\n")
    (repository.folder / "runs").mkdir()
    (repository.folder / "runs" / "note.txt").write_text("x")
    assert GitQuery(repository.folder).result()["dirty"] is False


def test_a_folder_of_the_repository_has_its_revision(repository):
    (repository.folder / "project").mkdir()
    commit(repository, net="width = 6\n")
    assert GitQuery(repository.folder / "project").result()["revision"] == repository("rev-parse", "HEAD")


def test_no_branch_is_none(repository):
    commit(repository, net="width = 6\n")
    repository("checkout", "-q", "--detach")
    assert GitQuery(repository.folder).result()["branch"] is None


def test_no_repository_no_commit_and_no_folder_are_nothing(repository, tmp_path, monkeypatch):
    assert GitQuery(repository.folder).result() == {}
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    for folder in (tmp_path / "plain", tmp_path / "nowhere"):
        assert GitQuery(folder).result() == {}
        assert redacted_diff(folder) == ""


def test_no_git_is_nothing(repository, monkeypatch):
    commit(repository, net="width = 6\n")
    monkeypatch.setenv("PATH", str(repository.folder))
    assert GitQuery(repository.folder).result() == {}
    assert redacted_diff(repository.folder) == ""


def test_a_slow_git_is_killed_with_its_children(repository, monkeypatch, tmp_path):
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/child\necho '# branch.oid abc'\nwait\n")
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(slow.parent), prepend=os.pathsep)
    monkeypatch.setattr("runmanager.launching.git._MAX_SECONDS", 1.0)
    start = time.monotonic()
    assert GitQuery(repository.folder).result() == {}
    assert time.monotonic() - start < 30
    child = int((tmp_path / "child").read_text())
    while runs(child):
        assert time.monotonic() - start < 45, "the child of git still runs"
        time.sleep(0.01)


def runs(pid):
    """Whether a process is there, and has not just ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_the_repository_of_a_hook_is_not_taken_for_the_projects(repository, tmp_path, monkeypatch):
    commit(repository, net="width = 6\n")
    other = tmp_path / "other"
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert GitQuery(repository.folder).result()["branch"] == "main"


def test_nothing_of_the_users_is_started_and_no_file_is_touched(repository, tmp_path):
    """Hooks, monitors, pagers, external and converting diffs are commands that a repository may name."""
    commit(repository, net="width = 6\n")
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\necho $0 >> {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    (repository.folder / ".gitattributes").write_text("*.py diff=trap\n")
    repository("add", "-A")
    repository("commit", "-q", "-m", "attributes")
    for key in ("core.fsmonitor", "core.pager", "diff.external", "diff.trap.textconv", "diff.trap.command"):
        repository("config", key, str(trap))
    hooks = repository.folder / ".git" / "hooks"
    (hooks / "post-index-change").symlink_to(trap)
    (repository.folder / "net.py").write_text("width = 7\n")
    (repository.folder / ".gitattributes").touch()  # so that the index is out of date
    before = (repository.folder / ".git" / "index").stat().st_mtime_ns
    assert GitQuery(repository.folder).result()["dirty"]
    assert "+width = 7" in redacted_diff(repository.folder)
    assert (repository.folder / ".git" / "index").stat().st_mtime_ns == before
    assert not (tmp_path / "sprung").exists()


def test_remotes_are_not_told(repository):
    commit(repository, net="width = 6\n")
    repository("remote", "add", "origin", "https://ada:canary@example.org/net.git")
    repository("config", "branch.main.remote", "origin")
    repository("config", "branch.main.merge", "refs/heads/main")
    assert "canary" not in str(GitQuery(repository.folder).result())


# Each line holds one or more words that begin with canary; shapes that cannot are built from pieces, so that no scanner of
# secrets takes this file for a leak.
HEX = "3f9c0a7be1d25486" * 2
MIXED = "Zx9kQ2mB7vTn4LpR8sWd1YfJ6hGc3AeU"
ASSIGNED = r"""
token = "canary01"
api_key='canary02'
HF_TOKEN=canary03
export WANDB_API_KEY=canary04
    "password": "canary05",
  password: canary06 with canary06b words
{"access_key": "canary07", "name": "x"}
os.environ["SECRET_KEY"] = "canary08"
login(user="ada", passwd="canary09", retries=3)
headers = {"Authorization": "Bearer canary10"}
curl -H "Authorization: token canary11" https://example.org
url = "postgres://ada:canary12@example.org/db"
url = "https://canary13@example.org/x.git"
python train.py --token canary14 --lr 0.1
python train.py --api-key=canary15
machine example.org login ada password canary16
private_key: str = "canary17"
def connect(host, auth: str | None = "canary18"):
token = ("canary19"
         "canary20")
SECRET = (
    "canary21"
)
credentials = {
    "user": "canary22",
}
password: |
  canary23
  canary24
api_keys:
- canary25
- canary26
requests.get("https://example.org/x?lr=1&access_token=canary27&x=1")
dsn = "host=db password=canary28 dbname=runs"
    "token = \"canary29\"\n",
key = os.environ.get("API_TOKEN", "canary30")
if password == "canary31":
SECRET_TEXT = '''
canary32
'''
# the old password was password=canary33, do not tell
apiKey: 'canary34'
clientSecret = f"canary35{lr}"
db_pwd = "canary36"
passphrase = r'canary37'
PASSWORD=canary(38
token["hub"] = "canary39"
self.auth = ("ada", "canary40")
password = 12345678canary41
token: canary42
curl -u ada:canary43 https://example.org
""".strip().split("\n")
SHAPED = {
    "ghp": "ghp_" + MIXED,
    "pat": "github_pat_" + "11ABCDEFG0" + MIXED,
    "hub": "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ",
    "sk": "sk-" + "proj-" + "abcdefghijklmnopqrst",
    "stripe": "sk_" + "live_" + "abcdefghijklmnop",
    "aws": "AKIA" + "ABCDEFGHIJKLMNOP",
    "slack": "xoxb-" + "123456789012-abcdef",
    "jwt": "eyJhbGciOiJub25l" + ".eyJzdWIiOiIxIn0" + ".c2lnbmF0dXJl",
    "hook": "https://hooks.slack.com/services/" + "T0000/B0000/abcdefgh",
    "hexadecimal": HEX,
    "base64": MIXED + "+/aB3=",
    "uuid": "3f9c0a7b-e1d2-5486-9f3c-0a7be1d25486",
}
KEY_BLOCK = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEAcanary\nshort\n-----END RSA " + "PRIVATE KEY-----"
ORDINARY = """
lr = 0.01
tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
max_tokens = 128
num_tokens: int = 4096
tokens = tokenizer(text, return_tensors=kind)
for token in tokens:
    count[token] += 1
def forward(self, tokens: Tensor, lr: float = 0.1) -> Tensor:
author = "Ada Lovelace"
self.conv1 = nn.Conv2d(1, 6, kernel_size=5)
model.generate(prompt, max_new_tokens=256, temperature=0.7)
key = jax.random.PRNGKey(0)
from networks.fashion_cnn import FashionCNN
sweep = Sweep(params=OrderedDict(lr=[0.01, 0.001], batch_size=[100, 1000]), objective="val_accuracy")
path = "runs/fashion_mnist/0001-lr=0.01,batch_size=100/checkpoints/epoch-3"
def test_a_half_written_line_hides_only_itself_and_no_other_line_of_2_journals():
class ConvolutionalNetworkWithResidualConnections(nn.Module):
optimizer = torch.optim.AdamW(network.parameters(), lr=run.lr, weight_decay=1e-4)
see https://example.org:8080/docs/page.html
""".strip().split("\n")


def test_no_secret_is_left_in_a_diff_and_ordinary_lines_are(repository):
    commit(repository, train="# begin\n")
    shaped = [f"{name}_value = {secret!r}" for name, secret in SHAPED.items()]
    between = [line for group in (ASSIGNED, shaped, KEY_BLOCK.split("\n")) for line in [*group, "between = 1"]]
    (repository.folder / "train.py").write_text("# begin\n" + "\n".join([*between, *ORDINARY]) + "\n")
    diff = redacted_diff(repository.folder)
    assert "canary" not in diff, [line for line in diff.split("\n") if "canary" in line]
    for name, secret in SHAPED.items():
        assert secret not in diff and secret[-12:] not in diff, name
    assert "MIIE" not in diff
    lines = diff.split("\n")
    assert [line for line in ORDINARY if f"+{line}" not in lines] == []
    assert "+between = 1" in lines


def test_a_secret_is_hidden_whether_it_came_went_or_stayed():
    of_many_lines = ("canary", '    "canary', '         "canary', "- canary", "  canary", '    "user"')
    for line in ASSIGNED:
        if not line.startswith(of_many_lines):
            for sign in "+- ":
                assert "canary" not in redacted(f"@@ -1 +1 @@ {line}\n{sign}{line}\n"), line


def test_the_second_half_of_a_private_key_is_hidden():
    """A hunk may begin below the line that says what is coming."""
    end = "-----END " + "PRIVATE KEY-----"
    text = f"@@ -3,3 +3,3 @@\n MIIEowIBAAKCAQEAabcdefgh\n-QEFAASCBKgwggSkAgEAAoIB\n+c2hvcnQ=\n {end}\n lr = 1"
    hidden = redacted(text)
    assert "MIIE" not in hidden and "QEFA" not in hidden and hidden.endswith("\n lr = 1")


def test_a_value_of_many_lines_hides_no_other_hunk_and_no_other_file():
    text = "@@ -1 +1 @@\n+TOKEN = '''\n+canary\n@@ -9 +9 @@\n+lr = 1\ndiff --git a/x b/x\n+auth = {\n+  canary,\n+}\n+epochs = 3"
    hidden = redacted(text)
    assert "canary" not in hidden and "\n+lr = 1\n" in hidden and hidden.endswith("\n+}\n+epochs = 3")


def test_files_for_secrets_are_left_out(repository):
    for name in (".env", "deploy.pem", "train.py"):
        (repository.folder / name).write_text("x\n")
    commit(repository)
    for name in (".env", "deploy.pem", "train.py"):
        (repository.folder / name).write_text("ORDINARY=word\n")
    diff = redacted_diff(repository.folder)
    assert diff.count("ORDINARY=word") == 1 and "train.py" in diff


def test_a_long_diff_is_cut_and_says_so(repository):
    commit(repository, net="")
    (repository.folder / "net.py").write_text("width = 6  # as wide as it was before\n" * 60_000)
    start = time.process_time()
    diff = redacted_diff(repository.folder)
    assert len(diff) < 1_000_100 and diff.endswith("(cut here: longer than 1000000 bytes)\n")
    assert diff.split("\n")[-3] == "+width = 6  # as wide as it was before"
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "text", ["token", "://a:", "-", "token=[(", "+" + "A" * 64 + "\n", "eyJaaaaaaaa.", " token = [\n"]
)
def test_a_strange_text_takes_no_time(text):
    start = time.process_time()
    redacted("+" + text * (100_000 // len(text)))
    assert time.process_time() - start < 5
