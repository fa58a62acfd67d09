"""How an equilibrium moves with its market: implicit differentiation of the optimality conditions.

On the bounds that hold at an equilibrium, everybody's conditions are those of a stationary point of
one function, the Lagrangian of the potential in what is left free (model.md: Equilibrium). With
w for all that can move, plan and prices, and m for the market,

    dL/dw (m, w) = 0    so    K dw = -d/dm (dL/dw) dm,    K = d^2 L / dw^2, symmetric:

the implicit function theorem (Fiacco, Math. Program. 10, 1976). A derivative costs one linear
system with K, whichever way it is taken and however many numbers the market has, and memory does
not grow with a solver's steps. K is never built: it is applied, and inverted by `linear`.
"""
