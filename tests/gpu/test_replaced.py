"""What was replaced is back afterwards, where it was."""

import pytest

from aiinfra.gpu.replaced import replaced


class Shop:
    opens = 9

    def sell(self) -> str:
        return "bread"


def test_everything_is_back_where_it_was() -> None:
    shop, own = Shop(), Shop()
    own.opens = 7
    with replaced(shop, opens=8, sell=lambda: "cake"), replaced(own, opens=6), replaced(Shop, closes=18):
        assert (shop.opens, shop.sell(), own.opens, own.closes) == (8, "cake", 6, 18)
    assert (shop.opens, shop.sell(), own.opens) == (9, "bread", 7)
    assert vars(shop) == {} and not hasattr(Shop, "closes")


def test_also_after_an_error() -> None:
    with pytest.raises(KeyError), replaced(Shop, opens=8):
        raise KeyError
    assert Shop.opens == 9
