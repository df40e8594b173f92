"""Who may import whom: a literal table of packages, no circle, no arrow up.

A new arrow is added here by hand, with a look at whether it should be. ``python -m support.house``,
run in tests/, prints the counts.
"""

from support.house import (
    arrows_of,
    circles_of,
    files_of_house,
    goes_up,
    imports_of,
    report,
)

MAY_IMPORT = {
    "columns": "errors keys routes visible",
    "damage": "dump errors",
    "dump": "columns errors gate_logprobs keys routes visible",
    "errors": "visible",
    "files": "errors limits",
    "gate_logprobs": "routes",
    "keys": "errors",
    "layouts": "errors",
    "limits": "errors",
    "margins": "",
    "model": "errors visible",
    "pickled": "errors files limits visible",
    "routes": "margins",
    "version": "",
    "visible": "",
    "codecs": "errors routes",
    "kernels": "keys margins routes",
    "routers": "errors model visible",
    "checkpoints": "errors files layouts limits model pickled visible routers",
    "engines": "errors files limits model visible formats.documents formats.responses formats.wire",
    "formats": (
        "columns damage dump errors files limits codecs checkpoints formats.arrays "
        "formats.documents formats.experts formats.native formats.responses formats.trainers "
        "formats.wire"
    ),
    "formats.arrays": "dump errors files limits model checkpoints formats.documents formats.wire",
    "formats.configs": "errors files formats.documents",
    "formats.documents": "dump errors files limits model visible kernels checkpoints",
    "formats.experts": (
        "damage dump errors files kernels model pickled routes formats.documents formats.wire"
    ),
    "formats.native": (
        "columns dump errors files gate_logprobs keys limits model routes codecs kernels "
        "formats.documents"
    ),
    "formats.replay": "errors files layouts formats.arrays formats.documents formats.trainers",
    "formats.responses": (
        "dump errors files limits model routes visible formats.documents formats.wire"
    ),
    "formats.targets": "dump errors files pickled routes",
    "formats.trainers": (
        "dump errors files limits margins model pickled visible checkpoints formats.arrays "
        "formats.documents formats.experts formats.responses formats.wire"
    ),
    "formats.wire": (
        "damage dump errors gate_logprobs limits model routes kernels formats.documents"
    ),
    "forward": "dump errors files routes routers checkpoints",
    "forward.live": "dump errors files layouts routes formats.native forward visible",
    "ops": "columns damage dump errors routes visible kernels ops.adding ops.pairs",
    "ops.adding": "dump",
    "ops.check": (
        "columns damage dump errors gate_logprobs keys margins routes kernels ops "
        "ops.check.against ops.check.alone ops.check.book ops.check.candidates ops.pairs"
    ),
    "ops.check.against": "dump layouts margins routes kernels ops.adding ops.check.book ops.pairs",
    "ops.check.alone": "columns dump errors keys routes kernels ops.pairs",
    "ops.check.book": "dump routes visible ops.check.alone ops.check.candidates",
    "ops.check.candidates": "dump errors margins routes ops.pairs ops.staleness",
    "ops.diff": "columns dump errors keys margins routes visible kernels ops ops.adding ops.pairs",
    "ops.pack": "dump errors layouts routes kernels",
    "ops.pairs": "columns dump errors keys margins routes kernels",
    "ops.predict": "errors routes routers ops.adding ops.diff",
    "ops.staleness": "dump errors margins routes visible kernels ops.adding ops.diff ops.pairs",
    "reports": "dump visible ops.diff",
    "reports.beside": "errors reports reports.ci reports.text",
    "reports.cache": "reports.text",
    "reports.check": (
        "dump ops.check.alone ops.check.book ops.check.candidates ops.diff reports reports.diff "
        "reports.text"
    ),
    "reports.ci": (
        "errors files visible ops.check.book ops.diff ops.staleness reports reports.check "
        "reports.diff reports.staleness reports.text"
    ),
    "reports.diff": "margins ops.adding ops.diff reports reports.text",
    "reports.notebook": "reports reports.page",
    "reports.pack": "dump layouts ops.pack reports reports.text",
    "reports.page": (
        "errors visible reports reports.beside reports.cache reports.check reports.ci reports.diff "
        "reports.pack reports.predict reports.recompute reports.show reports.staleness "
        "reports.text"
    ),
    "reports.predict": "checkpoints ops.adding ops.predict reports.text",
    "reports.recompute": "reports reports.diff reports.text",
    "reports.show": (
        "errors checkpoints ops ops.check.alone ops.diff reports reports.diff reports.text"
    ),
    "reports.staleness": (
        "dump errors margins ops.adding ops.diff ops.staleness reports reports.diff reports.text"
    ),
    "reports.summary": (
        "reports reports.check reports.ci reports.diff reports.pack reports.predict "
        "reports.recompute reports.show reports.staleness reports.text"
    ),
    "reports.tables": (
        "errors margins ops ops.adding ops.check.book ops.diff ops.staleness reports.staleness"
    ),
    "reports.text": "visible ops.adding reports",
    "reports.written": "errors reports reports.page reports.text",
    "jobs": (
        "dump errors files margins model visible codecs engines formats formats.documents "
        "formats.experts formats.native ops.check.book ops.diff reports reports.beside "
        "reports.cache reports.check reports.ci reports.diff reports.pack reports.predict "
        "reports.recompute reports.show reports.staleness reports.text"
    ),
    "jobs.check": (
        "dump errors files model routers formats.documents formats.native ops.check "
        "ops.check.against ops.check.book ops.check.candidates reports reports.check jobs "
        "jobs.recompute jobs.shards"
    ),
    "jobs.ci": "errors files ops.diff reports reports.ci jobs jobs.check jobs.diff jobs.staleness",
    "jobs.cluster": "errors limits version",
    "jobs.compared": "dump ops.diff ops.pairs reports.diff reports.tables jobs jobs.shards",
    "jobs.convert": (
        "dump errors files codecs formats formats.documents formats.native formats.targets ops "
        "ops.pack reports reports.text jobs jobs.check jobs.shards"
    ),
    "jobs.diff": (
        "dump errors files formats.experts formats.trainers ops.diff ops.pairs reports "
        "reports.tables jobs jobs.compared jobs.recompute jobs.shards jobs.show"
    ),
    "jobs.library": (
        "dump errors files layouts margins model routes visible checkpoints codecs "
        "formats.documents ops ops.check ops.check.alone ops.check.book ops.diff ops.pack "
        "ops.staleness reports reports.check reports.diff reports.notebook reports.pack "
        "reports.show reports.tables jobs jobs.check jobs.convert jobs.diff jobs.pack "
        "jobs.recompute jobs.show jobs.staleness"
    ),
    "jobs.merge": "errors files visible reports jobs jobs.shards",
    "jobs.pack": (
        "columns damage dump errors files layouts routes version visible kernels formats.configs "
        "formats.documents formats.native formats.replay ops.check ops.pack reports "
        "reports.pack reports.text jobs jobs.convert jobs.shards"
    ),
    "jobs.predict": (
        "dump errors files routes routers checkpoints formats.native forward ops.predict "
        "ops.staleness reports reports.predict reports.text jobs jobs.recompute"
    ),
    "jobs.recompute": (
        "damage dump errors files gate_logprobs limits margins routes version routers checkpoints "
        "formats formats.documents formats.native formats.wire forward ops.diff ops.predict "
        "reports reports.cache reports.diff reports.recompute reports.text jobs jobs.cluster "
        "jobs.compared jobs.shards"
    ),
    "jobs.shards": "dump errors files limits kernels reports reports.text jobs jobs.cluster",
    "jobs.show": (
        "dump errors checkpoints formats.documents formats.experts ops ops.check.alone reports "
        "reports.show jobs jobs.shards"
    ),
    "jobs.staleness": (
        "dump errors files ops.adding ops.diff ops.pairs ops.staleness reports reports.staleness "
        "jobs jobs.compared jobs.recompute jobs.shards"
    ),
    "jobs.watch": (
        "errors files formats.documents formats.wire ops.check ops.check.book reports.check "
        "reports.text jobs jobs.check"
    ),
    "loading": "dump model jobs.library",
    "trainers": (
        "dump errors keys layouts model routes forward forward.live ops.diff ops.pack reports.ci "
        "jobs.library"
    ),
    "cli": (
        "errors files limits version visible formats ops.check.book reports reports.beside "
        "reports.cache reports.check reports.ci reports.diff reports.pack reports.page "
        "reports.predict reports.recompute reports.show reports.staleness reports.summary "
        "reports.text reports.written jobs jobs.check jobs.ci jobs.convert jobs.diff jobs.merge "
        "jobs.pack jobs.predict jobs.recompute jobs.show jobs.staleness jobs.watch cli.words"
    ),
    "cli.words": "errors limits jobs",
    "__init__": (
        "dump errors layouts limits margins model routes version checkpoints "
        "formats.documents forward.live ops ops.check ops.check.book ops.diff ops.pack "
        "ops.staleness reports.check reports.ci reports.diff reports.page reports.show "
        "reports.staleness jobs jobs.check jobs.ci jobs.convert jobs.diff jobs.library jobs.merge "
        "jobs.pack jobs.predict jobs.recompute jobs.show jobs.staleness jobs.watch loading"
    ),
    "__main__": "cli",
}


def test_packages_import_what_the_table_allows():
    """Each package imports what the table says, and the table says no more."""
    told = {package: set(names.split()) for package, names in MAY_IMPORT.items()}
    assert arrows_of() == told


def test_no_circles():
    """No files and no packages import each other in a circle, inside functions neither."""
    assert circles_of({name: imports_of(name) for name in files_of_house()}) == []
    assert circles_of(arrows_of()) == []


def test_no_arrow_goes_up():
    """A floor imports lower floors alone; doors and verbs never meet."""
    up = [f"{a} > {b}" for a, others in arrows_of().items() for b in others if goes_up(a, b)]
    assert up == []


def test_the_house_is_reported(capsys):
    """``python -m support.house`` counts files, packages, arrows and both kinds of faults."""
    with capsys.disabled():
        print(f"\n{report()}")
    assert report().endswith("0 circles, 0 arrows up")
