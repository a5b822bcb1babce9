"""URLs of buckets."""

import pytest

from clac_jax.stores.url import UrlError, is_url, parse_url


@pytest.mark.parametrize(
    "text, shown, key",
    [
        ("s3://bucket", "s3://bucket", "x"),
        ("gs://bucket/", "gs://bucket", "x"),
        ("az://container/a b/c/", "az://container/a b/c", "a b/c/x"),
        (" S3://Bucket/A", "s3://Bucket/A", "A/x"),
    ],
)
def test_bucket_and_prefix(text, shown, key):
    url = parse_url(text)
    assert is_url(text)
    assert str(url) == shown
    assert url.key("x") == key
    assert str(url.child("y/z")) == f"{shown}/y/z"
    assert str(url.child("")) == shown


@pytest.mark.parametrize("text", ["runs/s3", "s3:/bucket/x", "http://host/x", "file:///x", ""])
def test_other_texts_are_not_urls_of_stores(text):
    assert not is_url(text)
    with pytest.raises(UrlError, match="not the URL of an object store"):
        parse_url(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("s3://", "has no bucket"),
        ("s3:///x", "has no bucket"),
        ("gs://bucket//x", "an empty part"),
        ("gs://bucket/../x", "an empty part"),
        ("s3://KEY:hunter2@bucket/x", "does not belong there"),
        ("az://container/x?sig=hunter2", "does not belong there"),
    ],
)
def test_unusable_urls(text, message):
    with pytest.raises(UrlError, match=message) as caught:
        parse_url(text)
    assert "hunter2" not in str(caught.value)
