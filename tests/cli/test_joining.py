"""What the processes of a job agree on before they are connected."""

from concurrent.futures import ThreadPoolExecutor

from torch.distributed import HashStore

from dalib.cli.joining import number_of_start


def test_all_ranks_know_the_number_of_a_start_whatever_earlier_ones_have_left_in_the_store():
    store = HashStore()
    with ThreadPoolExecutor(3) as pool:
        for start in (1, 2, 3):
            store.set("question of 1", "of a rank that died before it was answered")
            ranks = [pool.submit(number_of_start, store, rank, 3) for rank in (2, 0, 1)]
            assert [rank.result(timeout=60) for rank in ranks] == [start] * 3
