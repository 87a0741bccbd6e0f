// Every nonlinearity whose parameters are counted at run time.
#pragma once
#include "math/counted/curve.h"
#include "math/counted/hinged.h"
#include "math/counted/monomials.h"
#include "math/counted/names.h"
#include "math/counted/series.h"
#include "math/counted/straight.h"
