import pytest

pytest.importorskip("fastapi", reason="the example needs fastapi, which cloudq does not")
testclient = pytest.importorskip("fastapi.testclient")


def test_an_order_is_placed(cloudq_sandbox) -> None:
    from examples.fastapi_shop.shop import app, web

    box = cloudq_sandbox(app)
    client = testclient.TestClient(web)

    order = client.post("/orders", params={"item": "tea", "count": 2}).json()
    assert client.get(f"/orders/{order['id']}").json()["state"] == "PENDING"
    box.drain()

    assert client.get(f"/orders/{order['id']}").json()["result"] == {"item": "tea", "count": 2, "price": 10}
