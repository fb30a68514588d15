from headrace.engine.pushed import fold


def test_a_later_whole_record_stands_for_the_earlier():
    folded = fold(
        [b'[{"objectID":"1","a":1}, {"objectID":"2"}]', b'[{"objectID": "1"}]'], partial=False
    )
    assert folded.lines == [b'{"objectID":"1","a":1}', b'{"objectID":"2"}', b'{"objectID":"1"}']
    assert folded.superseded_by == {1: 3}


def test_partial_records_of_one_object_are_laid_over_each_other():
    folded = fold(
        [
            b'[{"objectID":"1","a":1.50,"b":1}]',
            b'[{"object\\u0049D":"1","b":2},{"objectID":"1","c":{"d":3}}]',
        ],
        partial=True,
    )
    assert folded.lines[-1] == b'{"objectID":"1","a":1.50,"b":2,"c":{"d":3}}'
    assert folded.superseded_by == {1: 3, 2: 3}
