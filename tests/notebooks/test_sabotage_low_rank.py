"""The low-rank chapter's claims have to fail when the library does not do what they are about.

That they hold untouched is what the build has shown.
"""

SMALL = """
SCRIPTS, EPOCHS, TUNE, KEPT, TIMES = ("latin_upper", "georgian"), 12, 3, (36, 144), (4, 8)
MEMORY_EPOCHS, DEEP_EPOCHS = 2, 8
CONVS, CONV_WIDTHS, CONV_EPOCHS, DRAWS, SPEED = 1, (4, 8), 1, 1, (48, 8)
figures.show = explore = lambda *_, **__: None  # nobody looks
"""

CLAIMS = {
    "nothing-of-rank-r-is-closer",
    "activations-decide-the-error",
    "svd-on-weights-fails",
    "utilized-rank-is-under-half",
    "projection-halves-parameters",
    "slices-keep-their-bound",
    "alds-beats-uniform",
    "dense-sparse-is-closer",
    "dense-sparse-beats-svd",
    "repair-beats-plain-svd",
}

# Each line breaks one thing, and leaves what the networks are built of as it was.
SABOTAGE = """
def svd(W, r, honest=low_rank.svd):  # in float64, where theorems are checked, without the largest term
    if W.dtype == torch.float32:
        return honest(W, r)
    A, B = honest(W, r)
    return A[:, 1:], B[1:]

def truncated(W, G, r, honest=low_rank.svd):
    return honest(W, r)

def subspace(G, *, energy=0.999, honest=utilized.subspace):  # as many directions, and other ones
    g = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(*honest(G).shape, generator=g, dtype=torch.float64)).Q

def stale(net, X, honest=gram):  # of other data
    g = torch.Generator().manual_seed(0)
    other = {k: torch.randn(G.shape, generator=g, dtype=torch.float64) for k, G in honest(net, X).items()}
    return {k: M @ M.T for k, M in other.items()}

def one_atom(W, r, s, honest=dense_sparse.dense_sparse, **how):
    A, S = honest(W, r, s, **how)
    return A[:, :1].expand_as(A).clone(), S

low_rank.svd, low_rank.activation_svd = svd, truncated
gram, dense_sparse.dense_sparse = stale, one_atom
utilized.utilized_rank = lambda W, G: int(torch.linalg.matrix_rank(W))
utilized.subspace = subspace
ranks.relative_error = lambda *a, honest=ranks.relative_error, **k: honest(*a, **k) / 2
ranks.alds = lambda weights, share, **_: {k: (1, r) for k, r in ranks.uniform_ranks(weights, share).items()}
torch.optim.Adam = lambda p, lr, honest=torch.optim.Adam, **how: honest(p, lr=1e-12, **how)
"""


def test_the_claims_notice(claims_that_hold):
    assert not claims_that_hold("pruning/03_low_rank", SMALL + SABOTAGE, judged=CLAIMS) & CLAIMS
