"""What the check finds in the shop when it comes: templates in every state of their life, coupons, orders.

Everything is made by the HTTP contract itself, as operators, shoppers and an order service would. The result
names, for each call, what it may be asked with so that it succeeds: values of its path, and bodies.
"""

import time

import requests

# A coupon's grant becomes a row within moments; the bound is for a machine that does much else.
PATIENCE_S = 30
SHOPPER = "u-1"
# What one user may have of a template.
PER_USER = 10

TEMPLATE = {
    "name": "满100减20",
    "kind": "full_reduction",
    "value": {"amount": "20.00"},
    "usage_rules": [{"rule_type": "MINIMUM_SPEND", "params": {"amount": "100.00"}}],
    "stock": {"total": 5000},
    "limits": {"per_user": PER_USER},
    "claim_window": {"starts_at": "2026-01-01T00:00:00+08:00", "ends_at": "2036-01-01T00:00:00+08:00"},
    "validity": {"type": "relative", "days": 7},
    "quotas": False,
}


class World:
    """The shop under test, and who comes to it."""

    def __init__(self, public, internal, admin, token):
        self.public, self.internal = public, internal
        self.admin = admin
        self.token_of = token
        self.token = token(SHOPPER)
        self.names = 0
        self.own_keys = ["1"]
        self.keys = {role: self.key(role) for role in ["operator", "approver", "service", "support", "auditor"]}
        self.keys["merchant"] = self.key("operator", owner_type="merchant", owner_id="m-1")

    # === Verbs ===

    def call(self, method, url, bearer, body=None, headers=None):
        headers = {"Authorization": f"Bearer {bearer}"} | (headers or {})
        answer = requests.request(method, url, headers=headers, json=body, timeout=30)
        if answer.status_code >= 300:
            raise SystemExit(f"the shop cannot be furnished: {method} {url}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def office(self, method, path, body=None, by="admin", headers=None):
        key = self.admin if by == "admin" else self.keys[by]
        return self.call(method, self.internal + path, key, body, headers)

    def shop(self, method, path, body=None, user=SHOPPER):
        return self.call(method, self.public + path, self.token_of(user), body)

    def name(self, word):
        self.names += 1
        return f"{word} {self.names}"

    def key(self, role, **owner):
        made = self.office("POST", "/v1/admin/api-keys", {"name": self.name(role), "role": role} | owner)
        self.own_keys.append(str(made["id"]))
        return made["key"]

    def template(self, *steps, **fields):
        """A template after these steps of its life; its id."""
        made = self.office("POST", "/v1/admin/templates", TEMPLATE | {"name": self.name("券")} | fields, by="operator")
        for step in steps:
            by = "approver" if step in ("approve", "reject") else "operator"
            self.office("POST", f"/v1/admin/templates/{made['id']}/{step}", by=by)
        return made["id"]

    def published(self, **fields):
        return self.template("submit", "approve", "publish", **fields)

    def claim(self, template):
        return self.shop("POST", f"/v1/templates/{template}/claims")["coupon"]["code"]

    def buyers(self, template, count):
        """As many users with a coupon each: the rules let nobody lock coupons for two orders within a minute."""
        users = [f"buyer-{n}" for n in range(count)]
        claims = {"claims": [{"user_id": user} for user in users]}
        made = self.office("POST", f"/v1/templates/{template}/claims:batch", claims, by="service")
        return [(user, result["coupon"]["code"]) for user, result in zip(users, made["results"])]

    def stored(self, code):
        """Waits until a coupon is a row: revocations and histories read rows."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            history = self.internal + f"/v1/coupons/{code}/history"
            if requests.get(history, headers={"Authorization": f"Bearer {self.admin}"}, timeout=30).ok:
                return
            time.sleep(0.05)
        raise SystemExit(f"coupon {code} has not become a row within {PATIENCE_S} s")

    def order(self, order_id, user=SHOPPER):
        line = {"line_id": "1", "item_id": "d-101", "category_ids": ["cat-roast-duck"], "merchant_id": "m-1"}
        fee = {"merchant_id": "m-1", "fee": "8.00"}
        lines = [line | {"unit_price": "60.00", "quantity": 2}]
        return {"order_id": order_id, "user_id": user, "currency": "CNY", "shipping": [fee], "lines": lines}

    def redemption(self, order_id, buyer):
        user, code = buyer
        return {"order": self.order(order_id, user), "coupons": [code]}

    def locked(self, order_id, buyer):
        self.office("POST", "/v1/redemptions", self.redemption(order_id, buyer), by="service")
        return order_id

    def used(self, order_id, buyer):
        self.locked(order_id, buyer)
        self.office("POST", f"/v1/redemptions/{order_id}/confirm", by="service")
        return order_id

    def refund(self, order_id):
        return {"refund_id": f"r-{order_id}", "order_id": order_id, "reason": "returned"}

    def offered(self, user, code):
        """A gift that waits for its receiver; its token."""
        return self.shop("POST", f"/v1/me/coupons/{code}/gifts", user=user)["token"]

    # === The shop ===

    def furnish(self):
        """Fills the shop; what hooks.py wants to know of it."""
        known = {"calls": self.calls(), "keys": self.keys, "own_keys": self.own_keys}
        return known | {"admin": self.admin, "token": self.token}

    def calls(self):
        """What each call may be asked with so that it succeeds: parts of its path, headers, bodies, and words
        for places within its body."""
        # First, so that the small numbers that generators like are nobody's ground to stand on.
        drafts = [self.template() for _ in range(8)]
        pending = [self.template("submit") for _ in range(4)]
        approved = [self.template("submit", "approve") for _ in range(2)]
        paused = [self.template("submit", "approve", "publish", "pause") for _ in range(2)]
        on_sale = [self.published() for _ in range(4)]
        stopped = self.template("submit", "approve", "publish", "stop")
        sale, open_sale = self.published(), self.published()
        coupons = [self.claim(sale) for _ in range(PER_USER)]
        buyers = self.buyers(sale, 20)
        for code in coupons + [code for _, code in buyers]:
            self.stored(code)
        free, spare = coupons[:3], coupons[3:]
        take = iter(buyers).__next__

        locked = [self.locked(f"locked-{n}", take()) for n in range(2)]
        cancelled = [self.locked(f"cancelled-{n}", take()) for n in range(2)]
        used = [self.used(f"used-{n}", take()) for n in range(3)]
        self.office("POST", "/v1/refunds", self.refund(used[2]), by="service")
        read = take()
        self.used("read-1", read)
        # Of another template: of the first the shopper has all they may, and can be given none.
        gifts = self.buyers(self.published(), 4)
        for _, code in gifts:
            self.stored(code)
        to_shopper = [self.offered(*gift) for gift in gifts]
        of_shopper = [self.offered(SHOPPER, spare.pop()) for _ in range(2)]
        rule_sets = [
            self.office("POST", "/v1/admin/rule-sets", {"name": self.name("rules"), "usage_rules": []})
            for _ in range(3)
        ]
        spare_keys = [
            self.office("POST", "/v1/admin/api-keys", {"name": self.name("spare"), "role": "support"})["id"]
            for _ in range(2)
        ]
        entries = [
            self.office("POST", "/v1/admin/blacklist", {"kind": "user", "value": f"bad-{n}", "reason": "fraud"})
            for n in range(3)
        ]
        revoked = self.office("POST", "/v1/admin/revocations", {"coupon": spare[0], "reason": "a mistake"})
        cart = self.order("cart-1")
        mine = cart | {"user_id": SHOPPER}
        quotes = [{"order": cart, "mode": mode} for mode in ("best", "rank")]
        quotes.append({"order": cart, "mode": "given", "coupons": free[:1]})
        admin = "/v1/admin/templates/{id}"
        return {
            "POST /v1/templates/{id}/claims": {"path": {"id": [open_sale, stopped, paused[1]]}},
            "POST /v1/templates/{id}/claims:batch": {
                "path": {"id": [open_sale]},
                "body": [{"claims": [{"user_id": "u-3", "claim_key": "k-1"}, {"user_id": "u-4"}]}],
            },
            "GET /v1/templates/{id}": {"path": {"id": [open_sale, sale, stopped]}},
            "GET /v1/me/coupons/{code}": {"path": {"code": free}},
            "POST /v1/me/coupons/{code}/gifts": {"path": {"code": [spare.pop(), spare.pop()]}},
            "POST /v1/gifts/{token}/accept": {"path": {"token": to_shopper[:2]}},
            "POST /v1/gifts/{token}/decline": {"path": {"token": to_shopper[2:]}},
            "DELETE /v1/gifts/{token}": {"path": {"token": of_shopper}},
            "POST /v1/me/quotes": {
                "body": [quote | {"order": mine} for quote in quotes],
                "words": {"body.coupons[*]": free, "body.order.currency": ["CNY"]},
            },
            "POST /v1/quotes": {
                "body": quotes,
                "words": {
                    "body.coupons[*]": free,
                    "body.order.user_id": [SHOPPER],
                    "body.order.currency": ["CNY"],
                    "body.trial_templates[*]": [sale],
                },
            },
            "GET /v1/users/{user_id}/coupons": {"path": {"user_id": [SHOPPER, read[0]]}},
            "GET /v1/coupons/{code}/history": {"path": {"code": [read[1], free[0]]}},
            "POST /v1/redemptions": {
                "body": [self.redemption(f"new-{n}", take()) | {"expected_discount": "20.00"} for n in range(2)],
                "words": {
                    "body.coupons[*]": [code for _, code in buyers],
                    "body.order.user_id": [user for user, _ in buyers],
                    "body.order.currency": ["CNY"],
                },
            },
            "GET /v1/redemptions/{order_id}": {"path": {"order_id": ["read-1", *used]}},
            "POST /v1/redemptions/{order_id}/confirm": {"path": {"order_id": locked}},
            "POST /v1/redemptions/{order_id}/cancel": {"path": {"order_id": [*cancelled, "never-seen"]}},
            "POST /v1/refunds": {
                "body": [self.refund(used[0]), self.refund(used[1]) | {"lines": [{"line_id": "1", "quantity": 1}]}]
            },
            "POST /v1/admin/templates": {"body": [TEMPLATE | {"name": "春节"}, TEMPLATE | {"name": "元宵"}]},
            f"GET {admin}": {"path": {"id": [sale, drafts[7]]}},
            f"PATCH {admin}": {
                "path": {"id": [drafts[0]]},
                "header": {"If-Match": ['"1"']},
                "body": [{"description": "changed"}],
            },
            f"DELETE {admin}": {"path": {"id": drafts[1:3]}},
            f"POST {admin}/submit": {"path": {"id": drafts[3:5]}},
            f"POST {admin}/approve": {"path": {"id": pending[:2]}},
            f"POST {admin}/reject": {"path": {"id": pending[2:]}, "body": [{"reason": "too dear"}]},
            f"POST {admin}/publish": {"path": {"id": approved}},
            f"POST {admin}/pause": {"path": {"id": on_sale[:1]}},
            f"POST {admin}/resume": {"path": {"id": paused[:1]}},
            f"POST {admin}/stop": {"path": {"id": on_sale[1:2]}},
            f"POST {admin}/stock": {"path": {"id": on_sale[2:]}, "body": [{"add": 10}]},
            "POST /v1/admin/rule-sets": {
                "body": [{"name": "by day", "usage_rules": [{"rule_type": "DAY_OF_WEEK", "params": {"days": [6, 7]}}]}]
            },
            "GET /v1/admin/rule-sets/{id}": {"path": {"id": [rule_sets[2]["id"]]}},
            "PATCH /v1/admin/rule-sets/{id}": {
                "path": {"id": [rule_sets[2]["id"]]},
                "header": {"If-Match": ['"1"']},
                "body": [{"description": "changed"}],
            },
            "DELETE /v1/admin/rule-sets/{id}": {"path": {"id": [made["id"] for made in rule_sets[:2]]}},
            "POST /v1/admin/api-keys": {"body": [{"name": "one more", "role": "support"}]},
            "DELETE /v1/admin/api-keys/{id}": {"path": {"id": spare_keys}},
            "POST /v1/admin/blacklist": {"body": [{"kind": "ip", "value": "203.0.113.0/24", "reason": "bots"}]},
            "DELETE /v1/admin/blacklist/{id}": {"path": {"id": [entry["id"] for entry in entries[1:]]}},
            "POST /v1/admin/revocations": {
                "body": [{"coupon": spare[1], "reason": "a mistake"}, {"template_id": stopped, "reason": "all of it"}]
            },
            "GET /v1/admin/revocations/{id}": {"path": {"id": [revoked["id"]]}},
        }


def document(internal):
    """The OpenAPI document."""
    return requests.get(f"{internal}/openapi.json", timeout=30).json()
