"""The test double keeps its contract: huggingface_hub's own client, unchanged, does what it does with the real Hub."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.processes import PATIENCE

ALICE, BOB = "hf_" + "a" * 34, "hf_" + "b" * 34
REPO = "alice/model"


@pytest.fixture
def api(hub):
    return hub.api()


@pytest.fixture
def repo(api):
    api.create_repo(REPO)
    return REPO


def add(path, content=b"{}"):
    return CommitOperationAdd(path, content)


def commit(api, *operations, **options):
    return api.create_commit(REPO, list(operations), commit_message="change", **options)


def test_a_repository_is_created_once(api):
    assert api.create_repo(REPO).repo_id == REPO
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)


def test_a_namespace_of_others_is_refused(api):
    assert api.create_repo("lab/model").repo_id == "lab/model"
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("bob/model")


def test_small_and_large_files_arrive_in_one_commit(api, repo, hub, tmp_path):
    weights = bytes(range(256)) * 4000
    before = api.model_info(repo).sha

    made = commit(api, add("config.json", b'{"a": 1}'), add("model.safetensors", weights))

    assert made.oid == api.model_info(repo).sha != before
    path = hf_hub_download(repo, "model.safetensors", endpoint=hub.address, token=ALICE, cache_dir=tmp_path)
    with open(path, "rb") as file:
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(weights).digest()
    paths = [one.path for one in api.list_repo_tree(repo)]
    assert paths == [".gitattributes", "config.json", "model.safetensors"]
    assert api.get_paths_info(repo, ["model.safetensors"])[0].lfs.sha256 == hashlib.sha256(weights).hexdigest()


def test_the_token_is_not_sent_to_the_host_of_large_files(api, repo, hub, tmp_path):
    commit(api, add("model.safetensors", b"0" * 10_000))
    hf_hub_download(repo, "model.safetensors", endpoint=hub.address, token=ALICE, cache_dir=tmp_path)

    from_cdn = [request for request in hub.control() if request["path"].startswith("/_cdn/")]
    assert from_cdn and not any(request["authorized"] for request in from_cdn)


def test_an_unchanged_upload_makes_no_commit(api, repo):
    first = commit(api, add("config.json"), add("model.safetensors", b"1" * 100))
    second = commit(api, add("config.json"), add("model.safetensors", b"1" * 100))

    assert second.oid == first.oid


def test_a_whole_snapshot_and_a_deletion(api, repo, hub, tmp_path):
    commit(api, add("config.json"), add("old/one.txt", b"1"))
    commit(api, CommitOperationDelete("old/one.txt"), add("new/two.txt", b"2"))

    folder = snapshot_download(repo, endpoint=hub.address, token=ALICE, cache_dir=tmp_path)

    names = {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
    assert names == {".gitattributes", "config.json", "new/two.txt"}


def test_branches_tags_and_commits_name_revisions(api, repo):
    first = commit(api, add("config.json", b"1")).oid
    api.create_branch(repo, branch="tryout")
    api.create_tag(repo, tag="v1")
    commit(api, add("config.json", b"2"))
    on_branch = commit(api, add("config.json", b"3"), revision="tryout").oid

    refs = api.list_repo_refs(repo)
    assert {branch.name for branch in refs.branches} == {"main", "tryout"}
    assert api.model_info(repo, revision="v1").sha == first
    assert api.model_info(repo, revision="tryout").sha == on_branch
    assert [one.title for one in api.list_repo_commits(repo)] == ["change", "change", "initial commit"]
    with pytest.raises(RevisionNotFoundError):
        api.model_info(repo, revision="gone")


def test_a_pull_request_waits_until_it_is_merged(hub, api, repo):
    commit(api, add("config.json", b"1"))
    made = hub.api(BOB).create_commit(repo, [add("config.json", b"2")], commit_message="better", create_pr=True)

    assert made.pr_num == 1
    assert [one.title for one in api.get_repo_discussions(repo)] == ["better"]
    before = api.model_info(repo).sha
    api.merge_pull_request(repo, 1)
    assert api.model_info(repo).sha != before
    assert api.get_discussion_details(repo, 1).status == "merged"


def test_a_stale_parent_is_refused(api, repo):
    parent = api.model_info(repo).sha
    commit(api, add("config.json", b"1"))

    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, add("config.json", b"2"), parent_commit=parent)


@pytest.mark.parametrize(("token", "status"), [(False, "401"), (BOB, "404")])
def test_a_private_repository_is_not_shown_to_others(hub, api, token, status):
    api.create_repo(REPO, private=True)

    with pytest.raises(RepositoryNotFoundError, match=status):
        hub.api(token).model_info(REPO)


def test_a_wrong_token_is_told_apart_from_a_missing_repository(hub, repo):
    with pytest.raises(HfHubHTTPError, match="Invalid user token") as caught:
        HfApi(endpoint=hub.address, token="hf_wrong").whoami()

    assert caught.value.response.status_code == 401


def test_missing_repositories_and_files_are_told_apart(api, repo, hub, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("alice/gone")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(repo, "gone.json", endpoint=hub.address, token=ALICE, cache_dir=tmp_path)


def test_a_busy_server_is_asked_again(api, repo, hub):
    hub.control(fault={"match": "POST .*/preupload/", "status": 503, "times": 1})

    commit(api, add("config.json", b"1"))

    assert sum("/preupload/" in request for request in hub.requests()) == 2


def test_an_object_that_was_not_uploaded_cannot_be_committed(api, repo, hub):
    operation = add("model.safetensors", b"2" * 50)
    operation._is_uploaded, operation._upload_mode, operation._should_ignore = True, "lfs", False

    with pytest.raises(HfHubHTTPError, match="was not uploaded"):
        commit(api, operation)


def test_models_are_found_by_tag_and_cards_are_read(api, repo):
    ModelCard("---\ntags: [audio-quality]\nlicense: mit\n---\n# A card").push_to_hub(repo, token=ALICE)

    assert [model.id for model in api.list_models(filter="audio-quality")] == [repo]
    assert list(api.list_models(filter="other")) == []
    assert ModelCard.load(repo, token=ALICE).data.license == "mit"


def test_metadata_that_is_no_mapping_is_refused(hub):
    card = ModelCard("---\nlicense: mit\n---\n")
    card.data.to_yaml = lambda **_: "- a list"

    with pytest.raises(ValueError, match="not a mapping"):
        card.validate()


def test_datasets_have_their_own_names(api, hub):
    api.create_repo("alice/data", repo_type="dataset")
    api.create_commit("alice/data", [add("a.csv", b"1")], commit_message="data", repo_type="dataset")

    assert api.list_repo_files("alice/data", repo_type="dataset") == [".gitattributes", "a.csv"]
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("alice/data")


def test_the_killed_client_leaves_the_request_undone_or_done(hub, api, repo):
    code = (
        "import sys, urllib.request as u; r = u.Request(sys.argv[1], data=b'{\"startingPoint\": \"main\"}', method='POST', "
        f"headers={{'Authorization': 'Bearer {ALICE}'}}); input(); u.urlopen(r)"
    )
    for when, expected in (("before", False), ("after", True)):
        child = subprocess.Popen(
            [sys.executable, "-c", code, f"{hub.address}/api/models/{repo}/branch/{when}"], stdin=subprocess.PIPE, text=True
        )
        hub.control(forget=True, kill={"at": 1, "when": when, "pid": child.pid})
        child.communicate("go\n", timeout=PATIENCE)

        assert child.returncode == -9
        hub.control(forget=True)
        assert (when in {branch.name for branch in api.list_repo_refs(repo).branches}) is expected
