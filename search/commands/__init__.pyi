from .doctor import Finding as Finding
from .doctor import examine as examine
from .package import Deployment as Deployment
from .package import package_student as package_student
from .plan import Plan as Plan
from .plan import Span as Span
from .plan import make_plan as make_plan
